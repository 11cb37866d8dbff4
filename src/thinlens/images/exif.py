"""EXIF of an upright image of another size: the orientation and the dimensions, changed in place.

All other bytes stay as they were, so that maker notes, whose offsets no library knows, stay valid.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

ORIENTATION = 0x0112
EXIF_DIRECTORY = 0x8769
WIDTHS = (0x0100, 0xA002)
"""Tags ImageWidth and PixelXDimension."""
HEIGHTS = (0x0101, 0xA003)
"""Tags ImageLength and PixelYDimension."""

_ENTRY = 12
"""Bytes of a directory's entry (TIFF 6.0, section 2)."""
_SHORT, _LONG = 3, 4
"""Field types of 16 and 32 bits."""


def upright_exif(exif: bytes, width: int, height: int) -> bytes:
    """Return `exif` (TIFF structure, from its byte order mark on) of an upright image of this size.

    The entry of the thumbnail, which shows the image as it was, is taken out. What cannot be
    understood is returned as it is.
    """
    changed = bytearray(exif)
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        size = (width, height)
        after, below = _patch_directory(changed, order, start, size)
        struct.pack_into(f"{order}I", changed, after, 0)
        if below:
            _patch_directory(changed, order, below, size)
    except (KeyError, struct.error):
        return bytes(changed)
    return bytes(changed)


def _patch_directory(
    data: bytearray, order: str, start: int, size: tuple[int, int]
) -> tuple[int, int]:
    """Patch one directory; return where the next one's offset stands, and the offset of EXIF's."""
    end, below = start + 2, 0
    width, height = size
    for position, tag, count in _entries(data, order, start):
        end = position + _ENTRY
        if tag == EXIF_DIRECTORY:
            (below,) = struct.unpack_from(f"{order}I", data, position + 8)
        elif count == 1 and tag == ORIENTATION:
            _set_number(data, order, position, 1)
        elif count == 1 and tag in WIDTHS:
            _set_number(data, order, position, width)
        elif count == 1 and tag in HEIGHTS:
            _set_number(data, order, position, height)
    return end, below


def _entries(data: bytearray, order: str, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield (position, tag, count of values) of a directory's entries."""
    (length,) = struct.unpack_from(f"{order}H", data, start)
    for index in range(length):
        position = start + 2 + index * _ENTRY
        tag, _, count = struct.unpack_from(f"{order}HHI", data, position)
        yield position, tag, count


def _set_number(data: bytearray, order: str, position: int, value: int) -> None:
    short = value < 2**16
    struct.pack_into(f"{order}H", data, position + 2, _SHORT if short else _LONG)
    packed = struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
    data[position + 8 : position + 12] = packed
