"""Image files of every kind that people have, made from a seed by other libraries than ours."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

Array = np.ndarray[Any, np.dtype[Any]]

HEIGHT, WIDTH = 6, 9

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
"""Only the header is read: a profile that fits grey."""

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" rdf:about="" dc:source="seed"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
IPTC = b"\x1c\x02\x00\x00\x02\x00\x04\x1c\x02\x19\x00\x04tree\x1c\x02\x78\x00\x05words"
"""The record version, a keyword and a caption."""
DPI = (300, 300)

RAW_YCBCR = (b"II", 6, (1,), 1, (8, 8, 8), ())
"""Pillow's key of a TIFF of YCbCr: byte order, photometric interpretation, ..., bits."""


def exif_bytes(orientation: int = 1) -> bytes:
    """Return EXIF with camera, date, GPS, dimensions, a maker note and an orientation."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    directory[0x010F], directory[0x0110] = "Maker", "Camera 1"
    directory[0x0112] = orientation
    directory[0x8769] = {
        0x9003: "2026:11:28 12:00:00",
        0x927C: b"maker note",
        0xA002: WIDTH,
        0xA003: HEIGHT,
    }
    directory[0x8825] = {1: "N", 2: (47.0, 30.0, 12.5), 3: "E", 4: (8.0, 15.0, 0.5)}
    return b"Exif\0\0II*\0\x08\0\0\0" + directory.tobytes(8)


def pixels(channels: int, kind: str = "u1", seed: int = 0) -> Array:
    """Return `[H, W, C]`, or `[H, W]` for one channel."""
    generator = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, channels)
    if kind == "f4":
        values: Array = generator.random(shape, dtype=np.float32)
    else:
        values = generator.integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)
    return values[..., 0] if channels == 1 else values


@dataclass(frozen=True)
class Made:
    """What a file of the table holds."""

    colours: Array | None
    """Upright colours `[H, W, 1 or 3]` in [0, 1]; None: read by Pillow."""
    alpha: Array | None = None
    """`[H, W]` in [0, 1]."""
    depth: int = 8
    metadata: tuple[str, ...] = ()
    """Which of exif, xmp, iptc, dpi, icc the file has."""
    tolerance: float = 0.5
    """Levels of the depth by which a result may differ; more where the file itself rounds."""


TURNS: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, 1),
}
"""NumPy's words for the EXIF orientations (EXIF 2.32, 4.6.4)."""


def made(values: Array, orientation: int = 1, **fields: Any) -> Made:
    """Return what a file of these stored samples shows."""
    values = values[..., None] if values.ndim == 2 else values
    white = 1.0 if values.dtype == np.float32 else float(np.iinfo(values.dtype).max)
    shown = TURNS[orientation](values.astype(np.float64) / white)
    count = 1 if shown.shape[2] < 3 else 3
    alpha = shown[..., count] if shown.shape[2] in (2, 4) else None
    depth = {"uint8": 8, "uint16": 16, "float32": 32}[values.dtype.name]
    return Made(shown[..., :count], alpha, depth, **fields)


def by_pillow(mode: str, orientation: int = 1, metadata: str = "", **options: Any) -> Any:
    """Write `mode` by Pillow, with the kinds of `metadata` (exif xmp iptc dpi icc)."""

    def write(path: Path) -> Made:
        channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
        values = pixels(channels)
        image = Image.fromarray(values, mode)
        kinds = tuple(metadata.split())
        extra: dict[str, Any] = dict(options)
        if "exif" in kinds or orientation > 1:
            extra["exif"] = exif_bytes(orientation)
        if "dpi" in kinds:
            extra["dpi"] = DPI
        if "icc" in kinds:
            extra["icc_profile"] = GREY_PROFILE if channels < 3 else SRGB
        if "xmp" in kinds:
            extra |= _xmp(path)
        if "iptc" in kinds:
            extra |= _iptc(path)
        if path.suffix in (".tif", ".tiff"):
            extra |= _tiff_tags(extra, kinds)
        image.save(path, **extra)
        exact = path.suffix not in (".jpg", ".jpeg", ".jpe", ".jfif", ".avif")
        exact &= path.suffix != ".webp" or options.get("lossless", False)
        shown = made(values, orientation, metadata=kinds)
        return shown if exact else Made(None, None, 8, kinds)

    return write


def _xmp(path: Path) -> dict[str, Any]:
    if path.suffix != ".png":
        return {"xmp": XMP}
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return {"pnginfo": info}


def _iptc(path: Path) -> dict[str, Any]:
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + bytes(len(IPTC) % 2)
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_text("Raw profile type iptc", f"\niptc\n{len(resource):8}\n{resource.hex()}\n")
        return {"pnginfo": info}
    if path.suffix in (".tif", ".tiff"):
        return {}
    segment = b"Photoshop 3.0\0" + resource
    return {"extra": b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment}


def _tiff_tags(extra: dict[str, Any], kinds: tuple[str, ...]) -> dict[str, Any]:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if "xmp" in kinds:
        tags.tagtype[700] = 1
        tags[700] = XMP
    if "iptc" in kinds:
        tags.tagtype[33723] = 7
        tags[33723] = IPTC
    extra.pop("xmp", None)
    exif = Image.Exif()
    if "exif" in extra:
        exif.load(extra.pop("exif"))
        for tag in (0x010F, 0x0110, 0x0112):
            tags[tag] = exif[tag]
        tags[0x8769], tags[0x8825] = dict(exif.get_ifd(0x8769)), dict(exif.get_ifd(0x8825))
    return {"tiffinfo": tags}


def palette(**options: Any) -> Any:
    """Write a palette of eight colours; `transparency` makes entries transparent."""

    def write(path: Path) -> Made:
        entries = pixels(3, seed=3).reshape(-1, 3)[:8]
        indices = np.random.default_rng(1).integers(0, 8, (HEIGHT, WIDTH)).astype(np.uint8)
        image = Image.fromarray(indices, "P")
        image.putpalette(entries.tobytes())
        image.save(path, **options)
        shown = made(entries[indices])
        opacity = options.get("transparency")
        if opacity is None:
            return shown
        table = np.full(8, 255.0)
        table[: len(opacity)] = list(opacity)
        return Made(shown.colours, table[indices] / 255)

    return write


def transparent_colour(mode: str) -> Any:
    """Write grey or RGB of which one colour is transparent (tRNS)."""

    def write(path: Path) -> Made:
        values = pixels(1 if mode == "L" else 3)
        key = int(values[0, 0]) if mode == "L" else tuple(int(v) for v in values[0, 0])
        Image.fromarray(values, mode).save(path, transparency=key)
        shown = made(values)
        same = values == values[0, 0]
        return Made(shown.colours, 1.0 - (same if mode == "L" else same.all(-1)))

    return write


def deep_png(channels: int, orientation: int = 1, interlace: bool = False) -> Any:
    """Write 16 bits by pypng."""

    def write(path: Path) -> Made:
        import png

        values = pixels(channels, "u2")
        with path.open("wb") as file:
            writer = png.Writer(
                *(WIDTH, HEIGHT),
                greyscale=channels < 3,
                alpha=channels in (2, 4),
                bitdepth=16,
                interlace=interlace,
            )
            rows = values.reshape(HEIGHT, -1).tolist()
            if interlace:
                writer.write_array(file, [v for row in rows for v in row])
            else:
                writer.write(file, rows)
        if orientation > 1:
            _insert_exif(path, exif_bytes(orientation)[6:])
        return made(values, orientation)

    return write


def _insert_exif(path: Path, exif: bytes) -> None:
    import zlib

    content = path.read_bytes()
    body = b"eXIf" + exif
    chunk = struct.pack(">I", len(exif)) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(content[:33] + chunk + content[33:])


def by_tifffile(channels: int, kind: str, orientation: int = 1, **options: Any) -> Any:
    """Write by tifffile."""

    def write(path: Path) -> Made:
        import tifffile

        values = pixels(channels, kind)
        tags = [(274, "H", 1, orientation, True)] if orientation > 1 else []
        tifffile.imwrite(
            path,
            values,
            photometric="minisblack" if channels < 3 else "rgb",
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
            extratags=tags,
            metadata=None,
            **options,
        )
        return made(values, orientation)

    return write


def premultiplied_tiff(path: Path) -> Made:
    import tifffile

    values = pixels(4)
    values[..., 3] = np.maximum(values[..., 3], 128)
    stored = values.astype(np.float64)
    stored[..., :3] *= stored[..., 3:] / 255
    deep = (stored * 257).round().astype(np.uint16)
    tifffile.imwrite(path, deep, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    shown = made(values)
    return Made(shown.colours, shown.alpha, 16, tolerance=2)


def white_is_zero(path: Path) -> Made:
    import tifffile

    values = pixels(1, "u2")
    tifffile.imwrite(path, values, photometric="miniswhite", metadata=None)
    return made(65535 - values)


def deep_pnm(channels: int) -> Any:
    def write(path: Path) -> Made:
        values = pixels(channels, "u2")
        head = f"P{6 if channels == 3 else 5}\n# seed\n{WIDTH} {HEIGHT}\n65535\n"
        path.write_bytes(head.encode() + values.astype(">u2").tobytes())
        return made(values)

    return write


def bits_of_grey(path: Path) -> Made:
    values = (pixels(1) > 127).astype(np.uint8) * 255
    Image.fromarray(values).convert("1").save(path)
    return made(values)


def converted(mode: str, **options: Any) -> Any:
    """Write a colour model that becomes sRGB: compared with Pillow's own conversion."""

    def write(path: Path) -> Made:
        image = Image.fromarray(pixels(3), "RGB")
        if mode == "LAB":
            transform = ImageCms.buildTransform(
                *(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
            )
            stored = ImageCms.applyTransform(image, transform)
        else:
            stored = image.convert(mode)
        assert stored is not None
        stored.save(path, **options)
        return Made(None, None, 8)

    return write


def table() -> dict[str, tuple[str, Callable[[Path], Made]]]:
    """Return the files by their names: suffix and writer."""
    every = "exif xmp iptc dpi icc"
    cases: dict[str, tuple[str, Callable[[Path], Made]]] = {}
    for mode in ("L", "LA", "RGB", "RGBA"):
        cases[f"{mode} png"] = (".png", by_pillow(mode))
        cases[f"{mode} tiff"] = (".tif", by_pillow(mode))
    for mode in ("RGB", "RGBA"):
        cases[f"{mode} webp lossless"] = (".webp", by_pillow(mode, lossless=True, exact=True))
        cases[f"{mode} webp"] = (".webp", by_pillow(mode))
    for mode in ("L", "RGB"):
        for suffix in (".jpg", ".jpeg", ".jpe", ".jfif"):
            cases[f"{mode} {suffix}"] = (suffix, by_pillow(mode, **_jpeg(suffix)))
        cases[f"{mode} bmp"] = (".bmp", by_pillow(mode))
        cases[f"{mode} pnm"] = (".pgm" if mode == "L" else ".ppm", by_pillow(mode))
        cases[f"{mode} tiff lzw"] = (".tif", by_pillow(mode, compression="tiff_lzw"))
    cases["RGB avif"] = (".avif", by_pillow("RGB"))
    cases["RGBA avif"] = (".avif", by_pillow("RGBA"))
    for orientation in range(2, 9):
        cases[f"RGB png {orientation}"] = (".png", by_pillow("RGB", orientation))
        cases[f"RGBA tiff {orientation}"] = (".tif", by_pillow("RGBA", orientation))
    for orientation in (3, 6):
        cases[f"jpeg {orientation}"] = (".jpg", by_pillow("RGB", orientation))
        cases[f"webp {orientation}"] = (".webp", by_pillow("RGBA", orientation, lossless=True))
        cases[f"16 png {orientation}"] = (".png", deep_png(3, orientation))
        cases[f"16 tiff {orientation}"] = (".tif", by_tifffile(3, "u2", orientation))
    for channels in (1, 2, 3, 4):
        cases[f"16 png {channels} channels"] = (".png", deep_png(channels))
        cases[f"16 tiff {channels} channels"] = (".tif", by_tifffile(channels, "u2"))
        cases[f"float tiff {channels} channels"] = (".tif", by_tifffile(channels, "f4"))
    cases["16 png interlaced"] = (".png", deep_png(3, interlace=True))
    cases["16 tiff planar"] = (".tif", by_tifffile(1, "u2", rowsperstrip=2))
    cases["16 tiff premultiplied"] = (".tif", premultiplied_tiff)
    cases["16 tiff white is zero"] = (".tif", white_is_zero)
    cases["16 pgm"] = (".pgm", deep_pnm(1))
    cases["16 ppm"] = (".ppm", deep_pnm(3))
    cases["1 bit png"] = (".png", bits_of_grey)
    cases["1 bit tiff"] = (".tif", bits_of_grey)
    cases["1 bit pbm"] = (".pbm", bits_of_grey)
    cases["palette png"] = (".png", palette())
    cases["palette bmp"] = (".bmp", palette())
    cases["palette tRNS"] = (".png", palette(transparency=bytes([0, 99, 255])))
    cases["grey tRNS"] = (".png", transparent_colour("L"))
    cases["RGB tRNS"] = (".png", transparent_colour("RGB"))
    cases["CMYK jpeg"] = (".jpg", converted("CMYK", quality=100))
    cases["CMYK tiff"] = (".tif", converted("CMYK"))
    if TiffImagePlugin.OPEN_INFO[RAW_YCBCR][0] == "YCbCr":  # older Pillows do not
        cases["YCbCr tiff"] = (".tif", converted("YCbCr"))
    cases["LAB tiff"] = (".tif", converted("LAB"))
    for mode, suffix in (("L", ".png"), ("RGB", ".png"), ("RGBA", ".png")):
        cases[f"{mode} {suffix} exif dpi icc xmp"] = (
            suffix,
            by_pillow(mode, 1, "exif dpi icc xmp"),
        )
    cases["RGB .png iptc"] = (".png", by_pillow("RGB", 1, "exif dpi icc iptc"))
    for mode in ("L", "RGB"):
        cases[f"{mode} jpeg {every}"] = (".jpg", by_pillow(mode, 6, every))
        cases[f"{mode} tiff {every}"] = (".tif", by_pillow(mode, 1, every))
    cases["webp exif xmp icc"] = (".webp", by_pillow("RGBA", 1, "exif xmp icc", lossless=True))
    cases["avif exif xmp icc"] = (".avif", by_pillow("RGB", 1, "exif xmp icc"))
    return cases


def _jpeg(suffix: str) -> dict[str, Any]:
    return {"format": "JPEG", "quality": 95} if suffix in (".jpe", ".jfif") else {}


TABLE = table()
