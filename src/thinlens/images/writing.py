"""Write PNG files atomically, whole or row by row."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from thinlens.files import atomic_write

MAX_IN_MEMORY_PIXELS = 4_000_000
"""Pixels up to which Pillow encodes an image: it needs twice its memory but compresses better."""

FILTERED_ROWS = 64
"""Rows that are filtered and compressed at once, with several copies in memory."""

_UP = 2
"""The PNG filter that stores each value less the one above it (PNG, third edition, 9.2)."""


def write_png(path: Path, image: Tensor, profile: bytes | None = None) -> None:
    """Write uint8 `[C, H, W]`, RGB or grey, as PNG; `path` changes whole or not at all.

    `profile` is the ICC profile to keep. A failing write is a `RunError` that names `path`.
    """
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    picture = Image.fromarray(pixels.contiguous().cpu().numpy())
    with atomic_write(path) as file:
        picture.save(file, format="PNG", icc_profile=profile)


def write_rows(
    path: Path, shape: tuple[int, int, int], bands: Iterable[Tensor], profile: bytes | None = None
) -> None:
    """Write uint8 `bands` `[C, rows, W]` of an image of `shape`, as `write_png` does.

    Of a large image only one band is in memory. An exception of `bands` is passed on, and nothing
    is written then.
    """
    if shape[1] * shape[2] <= MAX_IN_MEMORY_PIXELS:
        image = torch.empty(shape, dtype=torch.uint8)
        top = 0
        for band in bands:
            image[:, top : top + band.shape[1]] = band
            top += band.shape[1]
        write_png(path, image, profile)
        return
    with atomic_write(path) as file:
        _encode(file, shape, bands, profile)


def _encode(
    file: BinaryIO, shape: tuple[int, int, int], bands: Iterable[Tensor], profile: bytes | None
) -> None:
    """Write a PNG row by row, which neither Pillow nor pyvips can do from an iterable of rows."""
    channels, height, width = shape
    file.write(b"\x89PNG\r\n\x1a\n")
    colours = 2 if channels == 3 else 0
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0))
    if profile is not None:
        _chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    compressor = zlib.compressobj()
    above = np.zeros((1, width * channels), np.uint8)
    for rows in (block for band in bands for block in torch.split(band, FILTERED_ROWS, dim=1)):
        values = rows.permute(1, 2, 0).reshape(rows.shape[1], -1).cpu().numpy()
        lines = np.full((len(values), 1 + values.shape[1]), _UP, np.uint8)
        lines[:, 1:] = values - np.concatenate([above, values[:-1]])
        above = values[-1:].copy()
        _chunk(file, b"IDAT", compressor.compress(lines.tobytes()))
    _chunk(file, b"IDAT", compressor.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind + content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))
