"""Orientation of image files by EXIF, without decoding pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

ORIENTATION_TAG = 0x0112
UPRIGHT = 1

TRANSPOSED = range(5, 9)
"""EXIF orientations that exchange width and height."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


def orientation_of(image: Image.Image, file: BinaryIO) -> int:
    """Return the EXIF orientation of an image opened from `file`; 1 where there is none.

    Of a PNG Pillow would first decode all pixels, to look for EXIF after them: only if there is
    metadata after the pixels it does.
    """
    early = "exif" in image.info or "Raw profile type exif" in image.info
    if image.format == "PNG" and not early and not has_late_metadata(file):
        return UPRIGHT
    return int(image.getexif().get(ORIENTATION_TAG, UPRIGHT))


def has_late_metadata(file: BinaryIO) -> bool:
    """Return whether a PNG has metadata after its pixels."""
    position, pixels = file.tell(), False
    try:
        for kind in _chunks(file):
            pixels |= kind == b"IDAT"
            if pixels and kind in _METADATA:
                return True
        return False
    finally:
        file.seek(position)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the types of the chunks of a PNG (third edition, 5.3)."""
    file.seek(0)
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind
        file.seek(length + 4, 1)
