"""Metadata of a photograph: colour profile, EXIF, XMP, IPTC, resolution and gamma, as bytes."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, TiffImagePlugin

from thinlens.images.exif import EXIF_DIRECTORY, upright_exif

ICC_SPACES = {1: b"GRAY", 3: b"RGB "}
"""By colour channels, the colour space that an ICC profile names (ICC.1:2022, 7.2)."""

GPS_DIRECTORY = 0x8825
INTEROPERABILITY = 0xA005

DESCRIPTIVE_TAGS = frozenset(
    {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298}
    | {0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F}
)
"""Tags of a TIFF's first directory that describe the photograph and not how it is stored:
description, camera, software, date, artist, computer, rating, copyright, and Windows' own."""

_IPTC_RESOURCE = 0x0404
"""Photoshop's image resource that holds IPTC."""
_IPTC_TAG = 33723
_XMP_TAG = 700
_ICC_TAG = 34675
_RESOLUTION = (0x011A, 0x011B, 0x0128)
"""Tags XResolution, YResolution and their unit."""
_CENTIMETRE = 3
_CENTIMETRES_PER_INCH = 2.54


@dataclass(frozen=True)
class Metadata:
    """What a file says about its photograph; each is None where it says nothing."""

    icc: bytes | None = None
    """The ICC profile of the colours."""
    exif: bytes | None = None
    """A TIFF structure, from its byte order mark on."""
    xmp: bytes | None = None
    """An XML packet in UTF-8."""
    iptc: bytes | None = None
    """IIM records."""
    dpi: tuple[float, float] | None = None
    """Dots an inch, across and down."""
    gamma: float | None = None
    """Exponent of the stored values, 0.45455 for 1/2.2: PNG's gAMA, where there is no profile."""

    def of_result(self, width: int, height: int, channels: int) -> Metadata:
        """Return the metadata of an upright result of another size.

        `channels` are its colours, 1 or 3; a profile of another colour space is dropped.
        """
        exif, xmp, icc = self.exif, self.xmp, self.icc
        fits = icc is not None and icc[16:20] == ICC_SPACES[channels]
        return replace(
            self,
            icc=icc if fits else None,
            exif=None if exif is None else upright_exif(exif, width, height),
            xmp=None if xmp is None else upright_xmp(xmp, width, height),
        )

    def photoshop(self) -> bytes:
        """Return IPTC as a Photoshop image resource, which JPEG and PNG hold."""
        records = self.iptc or b""
        header = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(records))
        return header + records + bytes(len(records) % 2)

    def exif_with_resolution(self) -> bytes | None:
        """Return EXIF that holds the resolution, for formats without another place for it."""
        if self.exif is not None or self.dpi is None:
            return self.exif
        exif = Image.Exif()
        exif.update(dict(zip(_RESOLUTION, (*self.dpi, 2), strict=True)))
        return without_prefix(exif.tobytes())


def upright_xmp(xmp: bytes, width: int, height: int) -> bytes:
    """Return an XMP packet whose orientation is upright and whose dimensions are these.

    >>> upright_xmp(b'<x tiff:Orientation="6" exif:PixelXDimension="8"/>', 16, 9)
    b'<x tiff:Orientation="1" exif:PixelXDimension="16"/>'
    """
    values = {
        "tiff:Orientation": 1,
        "tiff:ImageWidth": width,
        "tiff:ImageLength": height,
        "exif:PixelXDimension": width,
        "exif:PixelYDimension": height,
    }
    for name, value in values.items():
        pattern = rb"(%b(?:\s*=\s*[\"']|>\s*))\d+" % name.encode()
        xmp = re.sub(pattern, rb"\g<1>%d" % value, xmp)
    return xmp


def read_metadata(image: Image.Image) -> Metadata:
    """Return the metadata of an image other than a TIFF; of PNG all of it only after decoding."""
    info = image.info
    exif_bytes = without_prefix(info.get("exif"))
    if exif_bytes is None and "Raw profile type exif" in info:
        exif_bytes = without_prefix(image.getexif().tobytes())
    icc = info.get("icc_profile")
    dpi = info.get("dpi")
    return Metadata(
        icc=icc if isinstance(icc, bytes) and icc else None,
        exif=exif_bytes,
        xmp=_bytes(info.get("xmp") or info.get("XML:com.adobe.xmp")),
        iptc=_iptc(info),
        dpi=_resolution(dpi),
        gamma=info.get("gamma") if not icc and "srgb" not in info else None,
    )


def tiff_metadata(directory: Image.Exif) -> Metadata:
    """Return the metadata of a TIFF by its first directory."""
    across, down, unit = (directory.get(tag) for tag in _RESOLUTION)
    scale = _CENTIMETRES_PER_INCH if unit == _CENTIMETRE else 1.0
    dpi = (float(across) * scale, float(down) * scale) if across and down and unit != 1 else None
    return Metadata(
        icc=_bytes(directory.get(_ICC_TAG)),
        exif=_descriptive(directory),
        xmp=_bytes(directory.get(_XMP_TAG)),
        iptc=_bytes(directory.get(_IPTC_TAG)),
        dpi=dpi,
    )


def copy_tags(source: Image.Exif, target: TiffImagePlugin.ImageFileDirectory_v2) -> None:
    """Copy what describes a photograph from one directory to another, with EXIF and GPS."""
    kinds = source._info.tagtype if source._info is not None else {}
    for tag in DESCRIPTIVE_TAGS & source.keys():
        if tag in kinds:
            target.tagtype[tag] = kinds[tag]
        target[tag] = source[tag]
    for tag in (EXIF_DIRECTORY, GPS_DIRECTORY):
        below = dict(source.get_ifd(tag))
        if tag == EXIF_DIRECTORY and INTEROPERABILITY in below:
            below[INTEROPERABILITY] = dict(source.get_ifd(INTEROPERABILITY))
        if below:
            target[tag] = below


def without_prefix(exif: object) -> bytes | None:
    """Return EXIF from its byte order mark on, or None where there is none."""
    if not isinstance(exif, bytes):
        return None
    content = re.sub(rb"^(Exif\0\0)+", b"", exif)
    return content or None


def _descriptive(directory: Image.Exif) -> bytes | None:
    """Return what describes a TIFF's photograph as EXIF of other formats; None: nothing does."""
    target = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    copy_tags(directory, target)
    return b"II*\0\x08\0\0\0" + target.tobytes(8) if len(target) else None


def _iptc(info: dict[Any, Any]) -> bytes | None:
    """Return the IPTC records of a JPEG or of a PNG with ImageMagick's text."""
    resources = info.get("photoshop")
    if isinstance(resources, dict):
        return _bytes(resources.get(_IPTC_RESOURCE))
    text = info.get("Raw profile type iptc")
    if not isinstance(text, str):
        return None
    try:
        content = bytes.fromhex("".join(text.split()[2:]))
    except ValueError:
        return None
    if content[:4] != b"8BIM":
        return content
    (length,) = struct.unpack_from(">I", content, 8)
    return content[12 : 12 + length]


def _resolution(dpi: object) -> tuple[float, float] | None:
    if not isinstance(dpi, tuple) or len(dpi) != 2 or not all(dpi):
        return None
    return float(dpi[0]), float(dpi[1])


def _bytes(value: object) -> bytes | None:
    """Return a field's bytes; some writers store IPTC as 32-bit numbers."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, tuple) and all(isinstance(number, int) for number in value):
        value = struct.pack(f"<{len(value)}I", *value)
    return value if isinstance(value, bytes) and value else None
