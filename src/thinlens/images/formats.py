"""Image formats: which decoder of Pillow reads each, by what suffixes, and what writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import PurePath

from thinlens.errors import UsageError
from thinlens.images.encoders.content import Encoder
from thinlens.images.encoders.lossy import encode_avif, encode_jpeg, encode_jxl, encode_webp
from thinlens.images.encoders.png import encode_png
from thinlens.images.encoders.tiff import encode_tiff


@dataclass(frozen=True)
class ImageFormat:
    """One format: its names, its decoder and its encoder."""

    name: str
    """The value of `--format`."""
    suffixes: tuple[str, ...]
    """File name endings in lower case; results get the first."""
    decoder: str
    """Pillow's name of the decoder; no other decoder runs on untrusted bytes."""
    encoder: Encoder | None = None
    """Writes the format; None: `--format same` writes PNG in its place."""
    depths: tuple[int, ...] = (8,)
    """Bits a channel that the encoder writes, ascending; 32 are floats."""
    alpha: bool = True
    """Whether the encoder writes transparency."""
    max_side: int = 2**31 - 1
    """Most pixels along a side."""
    plugin: str = ""
    """A module that brings Pillow the decoder; empty: Pillow has it."""
    extra: str = ""
    """The extra of thinlens that installs the plugin."""
    signature: str = ""
    """A regular expression for the first bytes of the files that the plugin reads."""


FORMATS = {
    image_format.name: image_format
    for image_format in (
        ImageFormat("png", (".png",), "PNG", encode_png, depths=(8, 16)),
        ImageFormat(
            "jpeg",
            (".jpg", ".jpeg", ".jpe", ".jfif"),
            "JPEG",
            encode_jpeg,
            alpha=False,
            max_side=65_535,
        ),
        ImageFormat("webp", (".webp",), "WEBP", encode_webp, max_side=16_383),
        ImageFormat("tiff", (".tif", ".tiff"), "TIFF", encode_tiff, depths=(8, 16, 32)),
        ImageFormat("bmp", (".bmp", ".dib"), "BMP"),
        ImageFormat("pnm", (".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
        ImageFormat("avif", (".avif",), "AVIF", encode_avif, max_side=65_535),
        ImageFormat(
            "jxl",
            (".jxl",),
            "JXL",
            encode_jxl,
            plugin="pillow_jxl",
            extra="jxl",
            signature=r"\xff\x0a|\0\0\0\x0cJXL ",
        ),
        ImageFormat(
            "heic",
            (".heic", ".heif", ".hif"),
            "HEIF",
            plugin="pillow_heif",
            extra="heic",
            signature=r"[\0-\xff]{4}ftyp(hei|hev|(mif1|msf1)(?!.*avif))",
        ),
    )
}
"""The formats of photographs: adding one is a line here, and an encoder if it is written, too."""

SUFFIXES = frozenset(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
"""File name endings of `FORMATS`."""

WRITABLE = tuple(name for name, entry in FORMATS.items() if entry.encoder)
"""The names of the formats that are written."""


def format_of(name: str | PurePath) -> ImageFormat | None:
    """Return the format that a file name's ending stands for, or None.

    >>> format_of("a/photo.JPE").name
    'jpeg'
    """
    suffix = PurePath(name).suffix.lower()
    return next((entry for entry in FORMATS.values() if suffix in entry.suffixes), None)


def decoders(head: bytes) -> tuple[str, ...]:
    """Return Pillow's names of the decoders that may read a file which begins with `head`.

    Those of an extra are loaded where the content is theirs, whatever the file's name is. Raises
    `UsageError` with the extra to install where it is missing.

    >>> "HEIF" in decoders(bytes([137]) + b"PNG")
    False
    """
    plain = [entry.decoder for entry in FORMATS.values() if not entry.plugin]
    for entry in FORMATS.values():
        if entry.plugin and re.match(entry.signature.encode("latin-1"), head, re.DOTALL):
            load_plugin(entry)
            return (entry.decoder, *plain)
    return tuple(plain)


def load_plugin(image_format: ImageFormat) -> None:
    """Import the module that brings Pillow a format; `UsageError` where it is not installed."""
    if not image_format.plugin:
        return
    if find_spec(image_format.plugin) is None:
        install = f"pip install 'thinlens[{image_format.extra}]'"
        raise UsageError(f"{image_format.decoder} images need an extra: {install}")
    module = import_module(image_format.plugin)
    if image_format.plugin == "pillow_heif":
        module.register_heif_opener()
