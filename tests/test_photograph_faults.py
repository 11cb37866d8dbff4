"""Image files that are damaged, huge or unusual: one sentence each, or what a viewer shows."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, TiffImagePlugin

from photograph_files import HEIGHT, RAW_YCBCR, SRGB, TABLE, WIDTH, pixels
from thinlens.errors import UsageError
from thinlens.images.decoding import DecodeOptions, open_photograph
from thinlens.images.exif import upright_exif
from thinlens.images.photograph import Photograph
from thinlens.restoration.folder import restore_folder
from thinlens.restoration.options import RestoreOptions
from thinlens.tasks import make_task

TASK = make_task("restore")


def colours(photograph: Photograph) -> torch.Tensor:
    return photograph.colours.rows(0, photograph.colours.shape[1])


@pytest.mark.parametrize("case", sorted(TABLE))
def test_damage_is_a_sentence_or_an_image(case: str, tmp_path: Path) -> None:
    suffix, write = TABLE[case]
    path = tmp_path / f"in{suffix}"
    write(path)
    whole, generator = path.read_bytes(), random.Random(case)
    for index in range(8):
        damaged = bytearray(whole)
        if index % 2:
            damaged = damaged[: generator.randrange(len(whole))]
        else:
            damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            photograph = open_photograph(path, DecodeOptions(max_pixels=100_000))
            assert torch.isfinite(colours(photograph).float()).all()
        except UsageError as refusal:
            assert str(path) in str(refusal)


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_bombs_are_refused_before_they_are_decoded(bits: int, tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, bits, 0, 0, 0, 0)
    rows = zlib.compress(bytes(10_000))
    body = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "in.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(UsageError, match="30000x30000 pixels: wanted at most"):
        open_photograph(tmp_path / "in.png")


def test_deep_and_huge_tiffs_are_refused_too(tmp_path: Path) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "in.tif", np.zeros((40, 50, 3), np.float32), photometric="rgb")
    with pytest.raises(UsageError, match="50x40 pixels: wanted at most 1999"):
        open_photograph(tmp_path / "in.tif", DecodeOptions(max_pixels=1999))


def test_values_of_a_float_tiff_are_clipped_and_nan_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import tifffile

    values = np.array([[-1.0, 0.25, 7.0]], np.float32)
    tifffile.imwrite(tmp_path / "in.tif", values, metadata=None)
    assert colours(open_photograph(tmp_path / "in.tif")).tolist() == [[[0.0, 0.25, 1.0]]]
    assert "outside of 0 to 1 are clipped" in caplog.text
    tifffile.imwrite(tmp_path / "in.tif", values * np.nan, metadata=None)
    with pytest.raises(UsageError, match="NaN"):
        open_photograph(tmp_path / "in.tif")


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_cmyk_goes_through_its_profile(suffix: str, tmp_path: Path) -> None:
    pyvips = pytest.importorskip("pyvips")
    profile = bytes(pyvips.Operation.call("profile_load", "cmyk"))
    stored = Image.fromarray(pixels(4), "CMYK").resize((32, 32))
    options = {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
    stored.save(tmp_path / f"in{suffix}", icc_profile=profile, **options)
    read = open_photograph(tmp_path / f"in{suffix}")
    expected = ImageCms.profileToProfile(
        Image.open(io.BytesIO((tmp_path / f"in{suffix}").read_bytes())),
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert expected is not None
    assert np.array_equal(colours(read).permute(1, 2, 0).numpy(), np.asarray(expected))
    plain = np.asarray(stored.convert("RGB")).astype(int)
    assert np.abs(plain - np.asarray(expected)).mean() > 5  # the profile matters
    assert read.metadata.icc is not None
    assert read.metadata.icc[16:20] == b"RGB "


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_strip_converts_a_wide_profile_to_srgb(kind: str, tmp_path: Path) -> None:
    """A profile whose red and green primaries are exchanged: colours must be, too."""
    import tifffile

    profile = bytearray(SRGB)
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red + 4 : red + 8], profile[green + 4 : green + 8] = (
        profile[green + 4 : green + 8],
        profile[red + 4 : red + 8],
    )
    values = pixels(3, kind)
    tifffile.imwrite(
        tmp_path / "in.tif", values, photometric="rgb", iccprofile=bytes(profile), metadata=None
    )
    out = tmp_path / "out"
    restore_folder(lambda x: x, TASK, tmp_path / "in.tif", out, options=RestoreOptions(strip=True))
    result = open_photograph(out / "in.png")
    assert result.metadata.icc is None
    swapped = values[..., [1, 0, 2]].astype(np.float64)
    white = np.iinfo(values.dtype).max
    shown = colours(result).permute(1, 2, 0).double().numpy()
    shown = shown / 255 if kind == "u1" else shown
    assert np.abs(shown - swapped / white).max() <= 0.02


def test_the_first_frame_is_taken_when_asked(tmp_path: Path) -> None:
    frames = [Image.fromarray(pixels(3, seed=seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "in.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(tmp_path / "in.tif", save_all=True, append_images=frames[1:])
    for name in ("in.webp", "in.tif"):
        with pytest.raises(UsageError, match="2 frames"):
            open_photograph(tmp_path / name)
        read = open_photograph(tmp_path / name, DecodeOptions(first_frame=True))
        assert np.array_equal(colours(read).permute(1, 2, 0).numpy(), pixels(3))


@pytest.mark.parametrize("target", ["png", "jpeg"])
def test_an_unusual_gamma_is_kept_or_applied(target: str, tmp_path: Path) -> None:
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", 100_000))  # linear light
    Image.new("RGB", (8, 8), (55, 55, 55)).save(tmp_path / "in.png", pnginfo=info)
    options = RestoreOptions(format=target)
    restore_folder(lambda x: x, TASK, tmp_path / "in.png", tmp_path / "out", options=options)
    suffix = "png" if target == "png" else "jpg"
    read = open_photograph(tmp_path / "out" / f"in.{suffix}")
    value = int(colours(read).float().mean().round())
    expected = 55 if target == "png" else round(255 * (55 / 255) ** (1 / 2.2))
    assert value == expected
    assert read.metadata.gamma == (1.0 if target == "png" else None)


@pytest.mark.parametrize("order", ["II", "MM"])
def test_exif_is_changed_in_place(order: str) -> None:
    exif = Image.Exif()
    exif.endian = "<" if order == "II" else ">"
    exif[0x0112], exif[0x010F] = 6, "Maker"
    below = TiffImagePlugin.ImageFileDirectory_v2()
    below[0xA002], below[0xA003], below[0x927C] = 9, 6, b"maker note at any offset"
    exif[0x8769] = dict(below)
    before = exif.tobytes()[6:]
    after = upright_exif(before, 70_000, 12)
    assert len(after) == len(before)
    changed = sum(a != b for a, b in zip(after, before, strict=True))
    assert changed <= 1 + 2 * 5
    read = Image.Exif()
    read.load(after)
    assert (read[0x0112], read[0x010F]) == (1, "Maker")
    directory = read.get_ifd(0x8769)
    assert (directory[0xA002], directory[0xA003]) == (70_000, 12)
    assert directory[0x927C] == b"maker note at any offset"


@pytest.mark.parametrize("seed", range(50))
def test_damaged_exif_is_copied(seed: int) -> None:
    generator = random.Random(seed)
    content = b"II*\0\x08\0\0\0" + generator.randbytes(60)
    assert len(upright_exif(content, 9, 9)) == len(content)
    assert upright_exif(content[: seed % 9], 9, 9) == content[: seed % 9]


def test_a_centimetre_is_no_inch(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(3))
    image.save(tmp_path / "in.tif", resolution_unit=3, x_resolution=118.11, y_resolution=118.11)
    dpi = open_photograph(tmp_path / "in.tif").metadata.dpi
    assert dpi == pytest.approx((300, 300), rel=1e-3)


def test_large_files_are_read_by_rows_with_their_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thinlens.images import decoding
    from thinlens.images.rows import StreamingRowReader

    monkeypatch.setattr(decoding, "MIN_STREAMED_PIXELS", 1)
    TABLE["RGB jpeg exif xmp iptc dpi icc"][1](tmp_path / "turned.jpg")
    assert not isinstance(open_photograph(tmp_path / "turned.jpg").colours, StreamingRowReader)
    TABLE["RGB .png exif dpi icc xmp"][1](tmp_path / "in.png")
    read = open_photograph(tmp_path / "in.png")
    assert isinstance(read.colours, StreamingRowReader)
    assert read.colours.shape == (3, HEIGHT, WIDTH)
    assert read.metadata.icc == SRGB
    assert read.metadata.exif is not None


def test_sizes_and_orientations_are_read_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow decodes a PNG without EXIF when it is asked for it."""
    from PIL import ImageFile

    from thinlens.images.decoding import photograph_size
    from thinlens.images.reading import image_size

    TABLE["RGB png"][1](tmp_path / "plain.png")
    TABLE["RGB png 6"][1](tmp_path / "turned.png")
    plain = (tmp_path / "plain.png").read_bytes()
    exif = (tmp_path / "turned.png").read_bytes()
    start = exif.index(b"eXIf") - 4
    chunk = exif[start : start + 12 + int.from_bytes(exif[start : start + 4])]
    (tmp_path / "late.png").write_bytes(plain[:-12] + chunk + plain[-12:])  # after the pixels
    for size in (photograph_size, image_size):
        assert size(tmp_path / "late.png") == (WIDTH, HEIGHT)

    def no_load(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", no_load)
    for size in (photograph_size, image_size):
        assert size(tmp_path / "plain.png") == (HEIGHT, WIDTH)
        assert size(tmp_path / "turned.png") == (WIDTH, HEIGHT)


@pytest.mark.parametrize("target", ["png", "jpeg", "webp", "tiff", "avif"])
def test_a_disk_that_fills_ends_the_run_and_keeps_the_old_file(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from thinlens import files
    from thinlens.errors import RunError
    from thinlens.images.formats import FORMATS

    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "in.png")
    suffix = FORMATS[target].suffixes[0]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"in{suffix}").write_bytes(b"old")

    class Full(files._RecordingFile):
        def write(self, content: object) -> int:
            if self.tell() + len(content) > 5_000:  # type: ignore[arg-type]
                self.failure = OSError(errno.ENOSPC, "No space left on device")
                raise self.failure
            return super().write(content)

    monkeypatch.setattr(files, "_RecordingFile", Full)
    with pytest.raises(RunError, match="cannot write"):
        restore_folder(
            *(lambda x: x, TASK, tmp_path / "in.png", tmp_path / "out"),
            options=RestoreOptions(format=target),
        )
    monkeypatch.undo()
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names in ([f"in{suffix}"], [f"in{suffix}", "manifest.jsonl"])
    assert (tmp_path / "out" / f"in{suffix}").read_bytes() == b"old"


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_small_files_hold_the_same_and_are_smaller(
    channels: int, depth: int, tmp_path: Path
) -> None:
    from thinlens.images.encoders.content import Content
    from thinlens.images.formats import FORMATS
    from thinlens.images.writing import write_content

    slope = torch.linspace(0, 1, 90)
    image = (slope[:, None] * slope)[None].repeat(channels, 1, 1)
    image[:, 20:40, 30:60] = 0.5
    for name, suffix in (("png", "png"), ("tiff", "tif")):
        sizes, results = [], []
        for small in (False, True):
            path = tmp_path / f"{small}.{suffix}"
            content = Content((channels, 90, 90), [image], depth, small=small)
            write_content(path, FORMATS[name], content)
            sizes.append(path.stat().st_size)
            read = open_photograph(path)
            results.append(colours(read).float())
        assert torch.equal(*results)
        assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("head", "extra"),
    [(b"\xff\x0a" + bytes(40), "jxl"), (b"\0\0\0\x1cftypheic" + bytes(40), "heic")],
)
def test_a_missing_extra_is_named_whatever_the_file_is_called(
    head: bytes, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thinlens.images import formats

    (tmp_path / "in.jpg").write_bytes(head)
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"pip install 'thinlens\[{extra}\]'"):
        open_photograph(tmp_path / "in.jpg")


def test_what_an_older_pillow_misreads_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow 11.3 takes YCbCr without compression for RGB with a fourth byte."""
    monkeypatch.setitem(TiffImagePlugin.OPEN_INFO, RAW_YCBCR, ("RGB", "RGBX"))
    image = Image.fromarray(pixels(3)).convert("YCbCr")
    image.save(tmp_path / "in.tif")
    with pytest.raises(
        UsageError, match=r"in\.tif holds YCbCr without compression: .* newer Pillow"
    ):
        open_photograph(tmp_path / "in.tif")
    image.save(tmp_path / "packed.tif", compression="tiff_lzw")
    packed = open_photograph(tmp_path / "packed.tif")  # by libtiff
    assert packed.colours.shape == (3, HEIGHT, WIDTH)
