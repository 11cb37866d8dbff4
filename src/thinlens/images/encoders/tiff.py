"""TIFF encoder: compressed strips of rows in 8, 16 or 32 bits, then the directory with metadata.

Pillow writes neither RGB in 16 bits nor floats with three channels; its directory class serves.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin

from thinlens.errors import UsageError
from thinlens.images.encoders.content import FLOAT_BITS, Content, Samples
from thinlens.images.encoders.png import make_compressor
from thinlens.images.metadata import copy_tags

ROWS_PER_STRIP = 64

MAX_TIFF_BYTES = 2**32 - 2**20
"""Offsets of TIFF 6.0 have 32 bits; what remains holds the directory."""

_DEFLATE = 8
"""Compression (TIFF Technical Note of 2002, Adobe Deflate)."""
_HORIZONTAL = 2
"""Predictor: samples less their left neighbours."""
_GREY, _RGB = 1, 2
"""Photometric interpretations."""
_UNASSOCIATED = 2
"""An extra sample that is alpha, by which colours are not multiplied."""
_INCH = 2
_UINT, _FLOAT = 1, 3
"""Sample formats."""
_SHORT, _LONG, _UNDEFINED, _BYTE = 3, 4, 7, 1
"""Types of TIFF fields."""


def encode_tiff(file: BinaryIO, content: Content) -> None:
    """Write a TIFF; only a strip is in memory at a time. 4 GiB are its limit."""
    file.write(b"II*\0" + bytes(4))
    offsets: list[int] = []
    counts: list[int] = []
    rows: list[Samples] = []
    for block in content.blocks(ROWS_PER_STRIP):
        rows.append(block)
        joined = np.concatenate(rows)
        while len(joined) >= ROWS_PER_STRIP:
            _strip(file, joined[:ROWS_PER_STRIP], offsets, counts, small=content.small)
            joined = joined[ROWS_PER_STRIP:]
        rows = [joined] if len(joined) else []
    if rows:
        _strip(file, np.concatenate(rows), offsets, counts, small=content.small)
    start = file.tell() + file.tell() % 2
    file.write(bytes(start - file.tell()))
    directory = _directory(content)
    _set(directory, TiffImagePlugin.STRIPOFFSETS, _LONG, tuple(offsets))
    _set(directory, TiffImagePlugin.STRIPBYTECOUNTS, _LONG, tuple(counts))
    file.write(_with_offsets(bytearray(directory.tobytes(start)), start, offsets))
    file.seek(4)
    file.write(struct.pack("<I", start))
    file.seek(0, 2)


def _with_offsets(directory: bytearray, start: int, offsets: list[int]) -> bytes:
    """Set the offsets of the strips, which Pillow takes for relative to the end of the directory.

    `start` is the directory's own offset in the file.
    """
    (count,) = struct.unpack_from("<H", directory, 0)
    for position in range(2, 2 + 12 * count, 12):
        tag, _, _, value = struct.unpack_from("<HHII", directory, position)
        if tag == TiffImagePlugin.STRIPOFFSETS:
            place = position + 8 if len(offsets) == 1 else value - start
            struct.pack_into(f"<{len(offsets)}I", directory, place, *offsets)
    return bytes(directory)


def _strip(
    file: BinaryIO, rows: Samples, offsets: list[int], counts: list[int], *, small: bool
) -> None:
    if rows.dtype != np.float32:
        # the predictor: unsigned differences wrap around
        rows = np.concatenate([rows[:, :1], rows[:, 1:] - rows[:, :-1]], axis=1)
    compressor = make_compressor(small=small)
    little_endian = rows.astype(rows.dtype.newbyteorder("<"), copy=False)
    packed = compressor.compress(little_endian.tobytes()) + compressor.flush()
    offsets.append(file.tell())
    counts.append(len(packed))
    if offsets[-1] + len(packed) > MAX_TIFF_BYTES:
        raise UsageError("the result does not fit into the 4 GiB of a TIFF: wanted --format png")
    file.write(packed)


def _directory(content: Content) -> TiffImagePlugin.ImageFileDirectory_v2:
    channels, height, width = content.shape
    metadata, colours = content.metadata, channels - content.has_alpha
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    is_float = content.depth == FLOAT_BITS
    if metadata.exif is not None:
        exif = Image.Exif()
        exif.load(metadata.exif)
        copy_tags(exif, directory)
    _set(directory, TiffImagePlugin.IMAGEWIDTH, _LONG, width)
    _set(directory, TiffImagePlugin.IMAGELENGTH, _LONG, height)
    _set(directory, TiffImagePlugin.BITSPERSAMPLE, _SHORT, (content.depth,) * channels)
    _set(directory, TiffImagePlugin.COMPRESSION, _SHORT, _DEFLATE)
    _set(directory, TiffImagePlugin.PREDICTOR, _SHORT, 1 if is_float else _HORIZONTAL)
    photometric = _GREY if colours == 1 else _RGB
    _set(directory, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, _SHORT, photometric)
    _set(directory, TiffImagePlugin.SAMPLESPERPIXEL, _SHORT, channels)
    _set(directory, TiffImagePlugin.ROWSPERSTRIP, _LONG, ROWS_PER_STRIP)
    formats = (_FLOAT if is_float else _UINT,) * channels
    _set(directory, TiffImagePlugin.SAMPLEFORMAT, _SHORT, formats)
    if content.has_alpha:
        _set(directory, TiffImagePlugin.EXTRASAMPLES, _SHORT, _UNASSOCIATED)
    if metadata.dpi is not None:
        directory[TiffImagePlugin.X_RESOLUTION], directory[TiffImagePlugin.Y_RESOLUTION] = (
            metadata.dpi
        )
        _set(directory, TiffImagePlugin.RESOLUTION_UNIT, _SHORT, _INCH)
    if metadata.icc is not None:
        _set(directory, TiffImagePlugin.ICCPROFILE, _UNDEFINED, metadata.icc)
    if metadata.xmp is not None:
        _set(directory, TiffImagePlugin.XMP, _BYTE, metadata.xmp)
    if metadata.iptc is not None:
        _set(directory, TiffImagePlugin.IPTC_NAA_CHUNK, _UNDEFINED, metadata.iptc)
    return directory


def _set(
    directory: TiffImagePlugin.ImageFileDirectory_v2, tag: int, kind: int, value: object
) -> None:
    directory.tagtype[tag] = kind
    directory[tag] = value
