"""Bit depth of image files, read off their headers: Pillow opens some 16-bit files as 8-bit."""

from __future__ import annotations

import re
from typing import BinaryIO

from PIL import Image

HEADER_BYTES = 4096
"""The headers of all formats but TIFF are within so many bytes of the start."""

_PNG_DEPTH = 24
"""The offset of the bit depth in a PNG (third edition, 11.2.1)."""
_BITS_PER_SAMPLE = 258
_SAMPLE_FORMAT = 339
"""Tags of TIFF 6.0."""
_FLOAT = 3
_FLOAT_BITS = 32
_PNM = re.compile(
    rb"P([56])\s+(?:#[^\n]*\n\s*)*\d+\s+(?:#[^\n]*\n\s*)*\d+\s+(?:#[^\n]*\n\s*)*(\d+)\s"
)
"""The header of a binary PNM up to its largest value."""


def bits_per_channel(file: BinaryIO) -> int:
    """Return the bits of a channel in an open image file; 32 for floats, 8 where fewer."""
    file.seek(0)
    head = file.read(HEADER_BYTES)
    if head.startswith(b"\x89PNG"):
        return max(8, head[_PNG_DEPTH]) if len(head) > _PNG_DEPTH else 8
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff_bits(tiff_directory(file))
    if head[4:8] == b"ftyp":
        return _heif_bits(head)
    largest = _PNM.match(head)
    return 16 if largest and int(largest[2]) > 255 else 8


def tiff_directory(file: BinaryIO) -> Image.Exif:
    """Return the first directory of a TIFF, also of those that Pillow does not open."""
    file.seek(0)
    directory = Image.Exif()
    directory.load_from_fp(file)
    return directory


def _tiff_bits(directory: Image.Exif) -> int:
    bits = directory.get(_BITS_PER_SAMPLE, 8)
    most = max(bits) if isinstance(bits, tuple) else int(bits)
    formats = directory.get(_SAMPLE_FORMAT, 1)
    is_float = _FLOAT in (formats if isinstance(formats, tuple) else (formats,))
    return _FLOAT_BITS if is_float else max(8, most)


def _heif_bits(head: bytes) -> int:
    """Return the bits of an AVIF or HEIC by its boxes.

    They are AV1's configuration (AV1-ISOBMFF 1.2, 2.3.3), or the information on pixels (ISO
    23008-12, 6.5.6).
    """
    av1, pixels = head.find(b"av1C"), head.find(b"pixi")
    if av1 >= 0 and av1 + 6 < len(head):
        high, twelve = head[av1 + 6] & 0x40, head[av1 + 6] & 0x20
        return 8 if not high else 12 if twelve else 10
    return max(8, head[pixels + 9]) if 0 <= pixels < len(head) - 9 else 8
