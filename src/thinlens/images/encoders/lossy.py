"""Encoders of lossy formats, by Pillow: JPEG, WebP, AVIF, and JPEG XL with its extra."""

from __future__ import annotations

import logging
import struct
from typing import Any, BinaryIO

from PIL import Image

from thinlens.images.encoders.content import Content

log = logging.getLogger(__name__)

QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90, "JXL": 95}
"""Default qualities, of 100: hardly to be distinguished from the original by eye."""

LOSSLESS = 100
"""The quality at which WebP and JPEG XL are lossless."""

MARKER_BYTES = 65_533
"""Most bytes in a marker of JPEG (ISO 10918-1, B.1.1.4)."""

_PHOTOSHOP_MARKER = b"\xff\xed"
"""APP13, in which JPEG holds IPTC."""


def encode_jpeg(file: BinaryIO, content: Content) -> None:
    """Write a JPEG without chroma subsampling, with all metadata that fit into its markers."""
    metadata = content.metadata
    options: dict[str, Any] = {"subsampling": 0, "optimize": True}
    if metadata.exif is not None and _fits("EXIF", b"Exif\0\0" + metadata.exif):
        options["exif"] = b"Exif\0\0" + metadata.exif
    if metadata.xmp is not None and _fits("XMP", metadata.xmp + bytes(29)):
        options["xmp"] = metadata.xmp
    if metadata.iptc is not None:
        resources = b"Photoshop 3.0\0" + metadata.photoshop()
        if _fits("IPTC", resources):
            length = struct.pack(">H", len(resources) + 2)
            options["extra"] = _PHOTOSHOP_MARKER + length + resources
    if metadata.dpi is not None:
        options["dpi"] = tuple(round(dots) for dots in metadata.dpi)
    _save(file, content, "JPEG", options)


def encode_webp(file: BinaryIO, content: Content) -> None:
    """Write a WebP: lossless at quality 100. It has no place for IPTC."""
    options = {"lossless": content.quality == LOSSLESS, "method": 4, "exact": False}
    _save(file, content, "WEBP", options | _exif_and_xmp(content))


def encode_avif(file: BinaryIO, content: Content) -> None:
    """Write an AVIF without chroma subsampling. It has no place for IPTC."""
    _save(file, content, "AVIF", {"subsampling": "4:4:4"} | _exif_and_xmp(content))


def encode_jxl(file: BinaryIO, content: Content) -> None:
    """Write a JPEG XL: lossless at quality 100. It has no place for IPTC."""
    options = {"lossless": content.quality == LOSSLESS, "use_container": True}
    _save(file, content, "JXL", options | _exif_and_xmp(content))


def _save(file: BinaryIO, content: Content, kind: str, options: dict[str, Any]) -> None:
    pixels = content.whole()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if content.metadata.icc is not None:
        options["icc_profile"] = content.metadata.icc
    image.save(file, format=kind, quality=content.quality or QUALITY[kind], **options)


def _exif_and_xmp(content: Content) -> dict[str, Any]:
    """Return the two kinds of metadata that newer formats hold; resolution goes into EXIF."""
    metadata, options = content.metadata, {}
    exif = metadata.exif_with_resolution()
    if exif is not None:
        options["exif"] = b"Exif\0\0" + exif
    if metadata.xmp is not None:
        options["xmp"] = metadata.xmp
    if metadata.iptc is not None:
        log.warning("IPTC is dropped: the format has no place for it (EXIF and XMP are kept)")
    return options


def _fits(kind: str, content: bytes) -> bool:
    if len(content) > MARKER_BYTES:
        log.warning("%s of %d bytes is dropped: JPEG holds %d", kind, len(content), MARKER_BYTES)
    return len(content) <= MARKER_BYTES
