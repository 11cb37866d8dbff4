"""Photographs in, photographs out: pixels, depth, transparency, grey and metadata are kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from photograph_files import DPI, GREY_PROFILE, IPTC, SRGB, TABLE, XMP, Array, Made
from thinlens.images.decoding import open_photograph
from thinlens.images.transparency import filled
from thinlens.restoration.folder import RestoreResult, restore_folder
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.tiled import restore_image
from thinlens.tasks import make_task

SR = make_task("sr", scale=2)


class Brighten(nn.Module):
    """An RGB network: enlarges twice and mixes the colours, so that grey would be tinted."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)
        self.mix.weight.data = torch.tensor(
            [[0.8, 0.1, 0.0], [0.05, 0.7, 0.1], [0.0, 0.1, 0.6]]
        ).view(3, 3, 1, 1)
        self.mix.bias.data = torch.tensor([0.1, 0.05, 0.2])

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(F.interpolate(x, scale_factor=2))
        return mixed


NETWORK = Brighten().eval()


def restore(path: Path, out: Path, **options: Any) -> RestoreResult:
    result = restore_folder(NETWORK, SR, path, out, options=RestoreOptions(**options))
    assert not result.failures
    return result


def picture(path: Path) -> Image.Image:
    """Open an image from memory, so that no file stays open."""
    return Image.open(io.BytesIO(path.read_bytes()))


def stored(path: Path) -> Array:
    """Read a result by another library than ours, `[H, W, C]` in [0, 1]."""
    if path.suffix == ".png":
        import png

        width, height, rows, info = png.Reader(bytes=path.read_bytes()).read()
        values = np.array([list(row) for row in rows], dtype=np.float64)
        return values.reshape(height, width, -1) / (2 ** info["bitdepth"] - 1)
    if path.suffix in (".tif", ".tiff"):
        import tifffile

        samples = tifffile.imread(path)
        white = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
        values = samples.astype(np.float64) / white
    else:
        values = np.asarray(picture(path)).astype(np.float64) / 255
    return values[..., None] if values.ndim == 2 else values


def expected(colours: Array, alpha: Array | None) -> Array:
    """Restore the decoded float image, without rounding: `[H, W, C]`."""
    image = torch.from_numpy(colours.copy()).permute(2, 0, 1).float()
    planes = None if alpha is None else torch.from_numpy(alpha.copy())[None].float()
    if planes is not None:
        image = filled(image, planes)
    result = [_through(image)]
    if planes is not None:
        same = bool(planes.min() == planes.max())
        result.append(F.interpolate(planes[None], scale_factor=2)[0] if same else _through(planes))
    return torch.cat(result).permute(1, 2, 0).double().numpy()


def _through(image: Tensor) -> Tensor:
    colour = restore_image(NETWORK, image.expand(3, -1, -1), 3)
    if len(image) == 3:
        return colour
    return (colour * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)


def decoded(path: Path) -> tuple[Array, Array | None]:
    """Decode a file by Pillow alone."""
    from PIL import ImageCms, ImageOps

    image = ImageOps.exif_transpose(picture(path))
    if image.mode == "LAB":
        profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
        image = ImageCms.applyTransform(
            image,
            ImageCms.buildTransform(*profiles, "LAB", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC),
        )
    assert image is not None
    if image.mode == "RGBA":
        values = np.asarray(image) / 255
        return values[..., :3], values[..., 3]
    values = np.asarray(image if image.mode == "L" else image.convert("RGB")) / 255
    return values[..., None] if values.ndim == 2 else values, None


def test_the_table_is_large() -> None:
    assert len(TABLE) >= 60


@pytest.mark.parametrize("case", TABLE)
def test_pixels_are_those_of_the_decoded_float_image(case: str, tmp_path: Path) -> None:
    suffix, write = TABLE[case]
    path = tmp_path / f"in{suffix}"
    held = write(path)
    colours, alpha = (held.colours, held.alpha) if held.colours is not None else decoded(path)
    wanted = expected(colours, alpha)
    target = "tiff" if held.depth == 32 else "png"
    restore(path, tmp_path / "out", format=target)
    result = stored(tmp_path / "out" / f"in.{'tif' if target == 'tiff' else 'png'}")
    assert result.shape == wanted.shape
    levels = {8: 255, 16: 65535, 32: 2**22}[held.depth]
    assert np.abs(result - wanted).max() <= held.tolerance / levels + 2e-6
    if held.metadata:
        check_metadata(
            tmp_path / "out" / f"in.{'tif' if target == 'tiff' else 'png'}", held, wanted
        )


def check_metadata(path: Path, held: Made, wanted: Array) -> None:
    """Read a result's metadata by Pillow and, if installed, by Exiv2."""
    metadata = open_photograph(path).metadata
    grey = wanted.shape[2] < 3
    if "icc" in held.metadata:
        assert metadata.icc == (GREY_PROFILE if grey else SRGB)
    if "xmp" in held.metadata:
        assert metadata.xmp == XMP
    if "iptc" in held.metadata:
        assert metadata.iptc == IPTC
    if "dpi" in held.metadata:
        assert metadata.dpi == pytest.approx(DPI, rel=1e-3)
    if "exif" in held.metadata:
        with picture(path) as image:
            exif = image.getexif()
            below, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
            assert (exif[0x010F], exif[0x0110], exif.get(0x0112, 1)) == ("Maker", "Camera 1", 1)
            assert below[0x9003] == "2026:11:28 12:00:00"
            assert below[0x927C] == b"maker note"
            assert (below[0xA002], below[0xA003]) == (wanted.shape[1], wanted.shape[0])
            assert [float(part) for part in place[2]] == [47.0, 30.0, 12.5]


FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "avif": ".avif"}


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", [".jpg", ".tif", ".png"])
def test_exiv2_reads_the_same_metadata_of_every_format(
    source: str, target: str, tmp_path: Path
) -> None:
    pyexiv2 = pytest.importorskip("pyexiv2", exc_type=ImportError)
    kinds = "exif dpi icc xmp" + ("" if source == ".png" else " iptc")
    from photograph_files import by_pillow

    path = tmp_path / f"in{source}"
    by_pillow("RGB", 1, kinds)(path)
    restore(path, tmp_path / "out", format=target)
    result = tmp_path / "out" / f"in{FORMATS[target]}"
    if target == "avif":  # Exiv2 is built without ISO media files
        with picture(result) as image:
            assert image.getexif()[0x0110] == "Camera 1"
            assert image.info["xmp"] == XMP
            assert image.info["icc_profile"] == SRGB
        return
    with pyexiv2.Image(str(result)) as image:
        exif, xmp, iptc = image.read_exif(), image.read_xmp(), image.read_iptc()
        assert exif["Exif.Image.Model"] == "Camera 1"
        assert exif["Exif.Photo.DateTimeOriginal"] == "2026:11:28 12:00:00"
        assert exif["Exif.GPSInfo.GPSLatitude"] == "47/1 30/1 25/2"
        assert (exif["Exif.Photo.PixelXDimension"], exif["Exif.Photo.PixelYDimension"]) == (
            ("18", "12")
        )
        assert xmp["Xmp.dc.source"] == "seed"
        assert image.read_icc() == SRGB
        if "iptc" in kinds and target != "webp":
            assert iptc["Iptc.Application2.Keywords"] in ("tree", ["tree"])
            assert iptc["Iptc.Application2.Caption"] == "words"


def test_strip_drops_everything_and_keeps_the_colours(tmp_path: Path) -> None:
    TABLE["RGB jpeg exif xmp iptc dpi icc"][1](tmp_path / "in.jpg")
    for target, suffix in FORMATS.items():
        restore(tmp_path / "in.jpg", tmp_path / target, format=target, strip=True)
        metadata = open_photograph(tmp_path / target / f"in{suffix}").metadata
        assert metadata.exif is metadata.xmp is metadata.iptc is metadata.icc is None


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_format_holds_what_it_can(target: str, channels: int, tmp_path: Path) -> None:
    mode = ["L", "LA", "RGB", "RGBA"][channels - 1]
    TABLE[f"{mode} png"][1](tmp_path / "in.png")
    restore(tmp_path / "in.png", tmp_path / "out", format=target)
    result = picture(tmp_path / "out" / f"in{FORMATS[target]}")
    assert result.size == (18, 12)
    keeps_alpha = channels in (2, 4) and target != "jpeg"
    assert result.has_transparency_data == keeps_alpha
    if target in ("png", "tiff", "jpeg"):
        assert (result.mode[0] == "L") == (channels < 3)


def test_jpeg_xl_and_heic_are_read_and_jpeg_xl_is_written(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    TABLE["RGB png"][1](tmp_path / "in.png")
    restore(tmp_path / "in.png", tmp_path / "out", format="jxl", quality=100)
    restore(tmp_path / "in.png", tmp_path / "png")
    result = open_photograph(tmp_path / "out" / "in.jxl").colours.rows(0, 12)
    assert torch.equal(result, open_photograph(tmp_path / "png" / "in.png").colours.rows(0, 12))
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    picture(tmp_path / "in.png").save(tmp_path / "in.heic", quality=90)
    assert open_photograph(tmp_path / "in.heic").colours.shape == (3, 6, 9)
    (tmp_path / "in.heic").rename(tmp_path / "heic.jpg")  # as telephones name them
    assert open_photograph(tmp_path / "heic.jpg").colours.shape == (3, 6, 9)
    deep = (np.linspace(0, 1, 64 * 64 * 3).reshape(64, 64, 3) * 65535).astype(np.uint16)
    made = heif.from_bytes(mode="RGB;16", size=(64, 64), data=deep.tobytes())
    made.save(tmp_path / "deep.heic", quality=-1, chroma=444)  # 10 bits, lossless
    read = open_photograph(tmp_path / "deep.heic")
    shown = read.colours.rows(0, 64).permute(1, 2, 0).double().numpy()
    assert read.depth == 16
    assert np.abs(shown - deep / 65535).max() <= 3 / 1023


@pytest.mark.parametrize("bits", [10, 12])
def test_deep_avif_keeps_its_bits(bits: int, tmp_path: Path) -> None:
    pyvips = pytest.importorskip("pyvips")
    deep = (np.linspace(0, 1, 64 * 64 * 3).reshape(64, 64, 3) * 65535).astype(np.uint16)
    image = pyvips.Image.new_from_array(deep).copy(interpretation="rgb16")
    path = tmp_path / "in.avif"
    image.heifsave(str(path), compression="av1", bitdepth=bits, lossless=True)
    read = open_photograph(path)
    shown = read.colours.rows(0, 64).permute(1, 2, 0).double().numpy()
    assert read.depth == 16
    assert shown.max() == 1
    assert np.abs(shown - deep / 65535).max() <= 2 / (2**bits - 1)


def test_same_keeps_the_format_and_the_ending(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for case, suffix in (("RGB .jpe", ".jpe"), ("RGB tiff", ".tiff"), ("RGB bmp", ".bmp")):
        TABLE[case][1](tmp_path / "in" / f"a{suffix}")
    restore(tmp_path / "in", tmp_path / "out", format="same")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.jpe", "a.tiff", "a.png", "manifest.jsonl"}
    assert picture(tmp_path / "out" / "a.jpe").format == "JPEG"


def test_colours_below_transparent_pixels_do_not_bleed(tmp_path: Path) -> None:
    values = np.full((8, 8, 4), 200, np.uint8)
    values[:, :4] = (255, 0, 255, 0)  # magenta that nobody sees
    Image.fromarray(values).save(tmp_path / "in.png")
    blur = nn.Conv2d(3, 3, 5, padding=2, groups=3, bias=False)
    blur.weight.data.fill_(1 / 25)
    task = make_task("restore")
    for alpha in ("network", "bicubic"):
        options = RestoreOptions(alpha=alpha)  # type: ignore[arg-type]
        restore_folder(blur, task, tmp_path / "in.png", tmp_path / alpha, options=options)
        result = np.asarray(picture(tmp_path / alpha / "in.png"))
        assert (np.ptp(result[2:6, 2:6, :3].astype(int), axis=(0, 1, 2)) <= 1).all()
    restore_folder(
        blur,
        task,
        tmp_path / "in.png",
        tmp_path / "white",
        options=RestoreOptions(alpha="flatten"),
    )
    flat = picture(tmp_path / "white" / "in.png")
    assert flat.mode == "RGB"
    # 20 white pixels, and 5 of grey 200 on white at an opacity of 200 / 255
    assert flat.getpixel((2, 4)) == (246, 246, 246)
