"""Row readers and row-wise PNG writing equal reading and writing whole images."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from thinlens.errors import RunError, UsageError
from thinlens.images import decoding
from thinlens.images.decoding import DecodeOptions, open_photograph
from thinlens.images.reading import read_image
from thinlens.images.rows import InMemoryRowReader, StreamingRowReader
from thinlens.images.writing import write_png, write_rows

PROFILE = b"\0" * 16 + b"RGB " + b"\0" * 108


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyvips")
    monkeypatch.setattr(decoding, "MIN_STREAMED_PIXELS", 1)


def picture(channels: int = 3, height: int = 40, width: int = 33) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (channels, height, width), generator=generator).to(torch.uint8)


def bands(image: Tensor, sizes: tuple[int, ...] = (7, 1, 20, 12)) -> Iterator[Tensor]:
    yield from image.split(sizes, dim=1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_streamed_rows_are_those_of_the_whole(
    tmp_path: Path, channels: int, suffix: str, streaming: None
) -> None:
    path, image = tmp_path / f"a{suffix}", picture(channels)
    pixels = image[0] if channels == 1 else image.permute(1, 2, 0)
    Image.fromarray(pixels.contiguous().numpy()).save(path)
    stream, whole = open_photograph(path).colours, read_image(path, channels=None)
    assert isinstance(stream, StreamingRowReader)
    assert stream.shape == tuple(whole.shape)
    for top, bottom in [(0, 9), (3, 20), (18, 21), (18, 40), (40, 40)]:
        assert torch.equal(stream.rows(top, bottom), whole[:, top:bottom])


def test_rotated_and_transparent_images_are_read_whole(tmp_path: Path, streaming: None) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "rotated.png", exif=exif)
    Image.new("RGBA", (8, 4), (1, 2, 3, 255)).save(tmp_path / "alpha.png")
    for name, shape in (("rotated.png", (3, 8, 4)), ("alpha.png", (3, 4, 8))):
        read = open_photograph(tmp_path / name).colours
        assert isinstance(read, InMemoryRowReader)
        assert read.shape == shape
    with pytest.raises(UsageError, match="wanted at most 31"):
        open_photograph(tmp_path / "alpha.png", DecodeOptions(max_pixels=31))


def test_a_damaged_file_is_one_sentence(tmp_path: Path, streaming: None) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(height=200, width=200).permute(1, 2, 0).numpy()).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UsageError, match=r"cannot read .*a\.jpg"):
        open_photograph(path).colours.rows(0, 200)


@pytest.mark.parametrize("channels", [1, 3])
def test_written_by_rows_is_written_whole(tmp_path: Path, channels: int) -> None:
    image, profile = picture(channels), PROFILE if channels == 3 else None
    shape = (channels, 40, 33)
    write_png(tmp_path / "whole.png", image, profile)
    write_rows(tmp_path / "rows.png", shape, bands(image), profile)
    for name in ("rows.png", "whole.png"):
        assert torch.equal(read_image(tmp_path / name, channels=None), image)
        assert open_photograph(tmp_path / name).metadata.icc == profile


@pytest.mark.parametrize("error", [RunError("broken tile"), KeyboardInterrupt()])
def test_an_exception_of_the_rows_is_passed_on_and_nothing_is_written(
    tmp_path: Path, error: BaseException
) -> None:
    def broken() -> Iterator[Tensor]:
        yield picture()[:, :7]
        raise error

    with pytest.raises(type(error)):
        write_rows(tmp_path / "a.png", (3, 40, 33), broken())
    assert not list(tmp_path.iterdir())


def test_rows_are_written_in_the_memory_of_a_band(tmp_path: Path) -> None:
    """Peak bytes that Python and NumPy hold, against the height: the slope is zero."""
    band, peaks = torch.zeros(3, 16, 512, dtype=torch.uint8), []
    for count in (4, 64):
        tracemalloc.start()
        write_rows(tmp_path / "a.png", (3, 16 * count, 512), (band for _ in range(count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert band.nbytes < peaks[0]  # the band's filtered copy is counted
    assert peaks[1] < 1.1 * peaks[0]
