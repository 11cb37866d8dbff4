"""Image files are read as a viewer shows them, or refused with one sentence."""

from __future__ import annotations

import io
import os
import random
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from torch import Tensor

from thinlens.errors import RunError, UsageError
from thinlens.images.decoding import open_photograph
from thinlens.images.folders import image_paths
from thinlens.images.pixels import luma, to_float, to_uint8
from thinlens.images.reading import image_size, read_image
from thinlens.images.writing import write_png

SUFFIX = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp"}
EXACT = ("PNG", "TIFF", "BMP")


def photo(height: int = 24, width: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    """A smooth picture with some noise, which every encoder can compress a little."""
    generator = np.random.default_rng(seed)
    slope = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)
    noisy = slope[None] + generator.integers(0, 30, (channels, height, width))
    return torch.from_numpy(noisy.astype(np.uint8))


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    picture(photo()).save(file, format=kind)
    return file.getvalue()


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from((1, 3)), st.integers(0, 9))
def test_a_png_round_trip_is_exact(height: int, width: int, channels: int, seed: int) -> None:
    image = photo(height, width, channels, seed)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.png"
        write_png(path, image)
        assert torch.equal(read_image(path, channels=None), image)
        assert image_size(path) == (height, width)


@given(st.integers(0, 255))
def test_uint8_round_trips_through_float(value: int) -> None:
    image = torch.full((3, 1, 1), value, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(image)), image)


def test_floats_are_clipped_before_they_are_rounded() -> None:
    image = torch.tensor([-0.2, 0.4 / 255, 0.6 / 255, 1.0, 1.7])
    assert to_uint8(image).tolist() == [0, 0, 1, 255, 255]


def test_luma_runs_from_16_to_235() -> None:
    colours = torch.tensor([[0, 255, 255], [0, 255, 0], [0, 255, 0]], dtype=torch.uint8)
    # MATLAB: rgb2ycbcr([0 0 0; 1 1 1; 1 0 0]) is 16, 235, 81.481 (over 255).
    assert luma(colours[:, None]).flatten().tolist() == pytest.approx([16, 235, 81.481])


# --- The mode table: file contents, and the pixels read or the refusal --------------------------

GREY, RGB = photo(channels=1), photo()


def _rgb(path: Path, **options: object) -> None:
    picture(RGB).save(path, **options)


def _alpha(path: Path, mode: str, alpha: int) -> None:
    image = picture(RGB if mode == "RGBA" else GREY).convert(mode)
    image.putalpha(alpha)
    image.save(path)


def _transparent_colour(path: Path) -> None:
    first = tuple(RGB[:, 0, 0].tolist())
    picture(RGB).save(path, transparency=first)


def _palette(path: Path, **options: object) -> None:
    picture(RGB).quantize(16).save(path, **options)


def _rotated(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(RGB).save(path, exif=exif)


def _sixteen_bit_rgb_png(path: Path) -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4)

    header = (32).to_bytes(4) + (24).to_bytes(4) + bytes([16, 2, 0, 0, 0])
    rows = zlib.compress((b"\0" + bytes(32 * 6)) * 24)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _sixteen_bit_rgb_tiff(path: Path) -> None:
    entries = {256: 32, 257: 24, 258: 16, 259: 1, 262: 2, 273: 200, 277: 3, 278: 24, 279: 4608}
    directory = b"".join(
        tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
        for tag, value in entries.items()
    )
    # Three BitsPerSample do not fit into the entry: they lie at byte 180.
    directory = directory.replace(
        b"\2\1\4\0\1\0\0\0\x10\0\0\0", b"\2\1\3\0\3\0\0\0" + (180).to_bytes(4, "little")
    )
    head = b"II*\0\x08\0\0\0" + len(entries).to_bytes(2, "little") + directory + bytes(4)
    path.write_bytes(head.ljust(180, b"\0") + b"\x10\0" * 3 + bytes(14) + bytes(4608))


def _two_frames(path: Path, **options: object) -> None:
    picture(RGB).save(path, save_all=True, append_images=[picture(RGB.flip(-1))], **options)


def _profiled(path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    _rgb(path, icc_profile=profile)


Writer = Callable[[Path], None]
READABLE: dict[str, tuple[str, Writer, Callable[[], Tensor]]] = {
    "RGB PNG": ("png", _rgb, lambda: RGB),
    "RGB TIFF": ("tif", _rgb, lambda: RGB),
    "RGB TIFF, LZW": ("tif", lambda p: _rgb(p, compression="tiff_lzw"), lambda: RGB),
    "RGB BMP": ("bmp", _rgb, lambda: RGB),
    "RGB WebP, lossless": ("webp", lambda p: _rgb(p, lossless=True), lambda: RGB),
    "grey PNG": ("png", lambda p: picture(GREY).save(p), lambda: GREY.expand(3, -1, -1)),
    "grey TIFF": ("tif", lambda p: picture(GREY).save(p), lambda: GREY.expand(3, -1, -1)),
    "1 bit PNG": (
        "png",
        lambda p: picture(GREY).point(lambda v: 255 * (v > 90), "1").save(p),
        lambda: ((GREY > 90).to(torch.uint8) * 255).expand(3, -1, -1),
    ),
    "palette PNG": ("png", _palette, lambda: _pixels(picture(RGB).quantize(16).convert("RGB"))),
    "RGBA PNG, opaque": ("png", lambda p: _alpha(p, "RGBA", 255), lambda: RGB),
    "grey with alpha, opaque": (
        "png",
        lambda p: _alpha(p, "LA", 255),
        lambda: GREY.expand(3, -1, -1),
    ),
    "EXIF upside down": ("png", lambda p: _rotated(p, 3), lambda: RGB.flip(-1, -2)),
    "EXIF on its side, PNG": (
        "png",
        lambda p: _rotated(p, 6),
        lambda: RGB.transpose(1, 2).flip(-1),
    ),
    "EXIF on its side, TIFF": (
        "tif",
        lambda p: _rotated(p, 6),
        lambda: RGB.transpose(1, 2).flip(-1),
    ),
    "ICC profile": ("png", _profiled, lambda: RGB),
}
REFUSED: dict[str, tuple[str, Writer, str]] = {
    "RGBA PNG": ("png", lambda p: _alpha(p, "RGBA", 99), "transparent in places"),
    "grey with alpha": ("png", lambda p: _alpha(p, "LA", 99), "transparent in places"),
    "RGBA WebP": ("webp", lambda p: _alpha(p, "RGBA", 99), "transparent in places"),
    "a transparent colour": ("png", _transparent_colour, "transparent in places"),
    "palette with alpha": ("png", lambda p: _palette(p, transparency=0), "transparent in places"),
    "16 bit RGB PNG": ("png", _sixteen_bit_rgb_png, "16 bits a channel"),
    "16 bit RGB TIFF": ("tif", _sixteen_bit_rgb_tiff, "16 bits a channel"),
    "16 bit grey PNG": (
        "png",
        lambda p: Image.fromarray(np.full((9, 9), 777, np.uint16)).save(p),
        "16 bits a channel",
    ),
    "float TIFF": (
        "tif",
        lambda p: Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(p),
        "32 bits a channel",
    ),
    "CMYK JPEG": ("jpg", lambda p: picture(RGB).convert("CMYK").save(p), "CMYK colours"),
    "CMYK TIFF": ("tif", lambda p: picture(RGB).convert("CMYK").save(p), "CMYK colours"),
    "LAB TIFF": (
        "tif",
        lambda p: Image.new("LAB", (9, 9)).save(p),
        "LAB colours",
    ),
    "two pages": ("tif", _two_frames, "2 frames"),
    "animated WebP": ("webp", _two_frames, "2 frames"),
    "GIF named PNG": ("png", lambda p: picture(RGB).save(p, format="GIF"), "not one of PNG"),
}


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("case", READABLE)
def test_a_plain_image_is_read(case: str, tmp_path: Path) -> None:
    suffix, write, expected = READABLE[case]
    path = tmp_path / f"x.{suffix}"
    write(path)
    assert torch.equal(read_image(path), expected())
    assert image_size(path) == tuple(expected().shape[-2:])


@pytest.mark.parametrize("case", REFUSED)
def test_another_image_is_refused(case: str, tmp_path: Path) -> None:
    suffix, write, reason = REFUSED[case]
    path = tmp_path / f"x.{suffix}"
    write(path)
    with pytest.raises(UsageError, match=reason) as refusal:
        read_image(path)
    assert str(path) in str(refusal.value)


def test_sixteen_bit_rgb_would_open_as_eight_bit(tmp_path: Path) -> None:
    """The defect of Pillow for which the bit depth is checked."""
    for write, name in ((_sixteen_bit_rgb_png, "x.png"), (_sixteen_bit_rgb_tiff, "x.tif")):
        write(tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert image.mode == "RGB"


def test_colour_becomes_grey_by_the_luma_of_bt601(tmp_path: Path) -> None:
    _rgb(tmp_path / "x.png")
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    grey = read_image(tmp_path / "x.png", channels=1).float()
    assert (grey - (RGB * weights).sum(0, keepdim=True)).abs().max() <= 0.51


def test_a_profile_is_kept_where_it_fits(tmp_path: Path) -> None:
    _profiled(tmp_path / "x.png")
    metadata = open_photograph(tmp_path / "x.png").metadata
    profile = metadata.icc
    assert profile is not None
    assert metadata.of_result(8, 8, channels=1).icc is None
    write_png(tmp_path / "y.png", RGB, profile)
    assert open_photograph(tmp_path / "y.png").metadata.icc == profile


# --- Damage ---------------------------------------------------------------------------------------

FEW = 30


@pytest.mark.parametrize("kind", SUFFIX)
def test_a_truncated_file_is_refused(kind: str, tmp_path: Path) -> None:
    whole, path = encoded(kind), tmp_path / f"x.{SUFFIX[kind]}"
    generator = random.Random(0)
    accepted = []
    for _ in range(FEW):
        length = generator.randrange(len(whole) - 1)
        path.write_bytes(whole[:length])
        try:
            accepted.append((length, read_image(path)))
        except UsageError as refusal:
            assert str(path) in str(refusal)
    if kind != "TIFF":
        assert not accepted
    # A TIFF may end in metadata (its resolution): its pixels must then be right.
    assert all(torch.equal(image, RGB) for _, image in accepted)


@pytest.mark.parametrize("kind", SUFFIX)
def test_flipped_bits_never_crash(kind: str, tmp_path: Path) -> None:
    whole, path = encoded(kind), tmp_path / f"x.{SUFFIX[kind]}"
    generator = random.Random(1)
    for _ in range(FEW):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            image = read_image(path, max_pixels=1_000_000)
        except UsageError as refusal:
            assert str(path) in str(refusal)
        else:
            # Only PNG has a checksum of its pixels.
            assert kind != "PNG" or torch.equal(image, RGB)


def _broken_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.png"))


def _no_permission(path: Path) -> None:
    write_png(path, RGB)
    path.chmod(0)


UNREADABLE: dict[str, tuple[Writer, str]] = {
    "0 bytes": (lambda p: p.write_bytes(b"") and None, "not one of PNG"),
    "text named .png": (lambda p: p.write_text("hello") and None, "not one of PNG"),
    "a directory": (lambda p: p.mkdir(), "Is a directory"),
    "a broken link": (_broken_link, "No such file"),
    "missing": (lambda p: None, "No such file"),
    "no permission": (_no_permission, "Permission denied"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_without_an_image_is_refused(case: str, tmp_path: Path) -> None:
    if case == "no permission" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = tmp_path / "x.png"
    write, reason = UNREADABLE[case]
    write(path)
    with pytest.raises(UsageError, match=reason) as refusal:
        read_image(path)
    assert str(path) in str(refusal.value)


def test_a_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(path)
    tracemalloc.start()
    with pytest.raises(UsageError, match="20000x10000 pixels: wanted at most 178956970"):
        read_image(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    _rgb(tmp_path / "x.png")
    with pytest.raises(UsageError, match="wanted at most 700"):
        read_image(tmp_path / "x.png", max_pixels=700)


def test_a_folder_lists_its_images_in_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpg", "a.png", "notes.txt", ".hidden.png", "._a.png", ".x/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    paths = [path.relative_to(tmp_path).as_posix() for path in image_paths(tmp_path)]
    assert paths == ["a.png", "a/z.jpg", "b.PNG", "folder.png"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no images"):
        image_paths(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        image_paths(tmp_path / "nowhere")


def test_a_failing_write_names_the_file_and_creates_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write .*x\.png"):
        write_png(tmp_path / "file" / "x.png", RGB)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
