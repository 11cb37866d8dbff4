"""Views: an image as a browser shows it, upright, opaque and with 8 bits, at a chosen size."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from thinlens.images.decoding import DecodeOptions, open_photograph
from thinlens.images.pixels import to_float, to_uint8
from thinlens.images.resample import reader_bands, resampled
from thinlens.images.rows import InMemoryRowReader
from thinlens.images.transparency import on_white
from thinlens.images.writing import write_rows

MOST_VIEW_PIXELS = 6_000_000
"""Of a view: two of them take some 50 MB in a browser."""

_ANY_SIZE = 2**62


def view_size(size: tuple[int, int], most_pixels: int = MOST_VIEW_PIXELS) -> tuple[int, int]:
    """Return the size of the view of an image of `size`, its own where that is small enough.

    >>> view_size((600, 800)), view_size((6000, 8000), 480_000)
    ((600, 800), (600, 800))
    """
    height, width = size
    factor = min(1.0, math.sqrt(most_pixels / (height * width)))
    return max(1, round(height * factor)), max(1, round(width * factor))


def write_view(source: Path, target: Path, size: tuple[int, int]) -> None:
    """Write the image of a file as PNG of `size` (height, width), by bicubic interpolation.

    Transparency lies on white. Colours keep their profile.
    """
    photograph = open_photograph(source, DecodeOptions(_ANY_SIZE))
    reader = photograph.colours
    channels, height, width = reader.shape
    if photograph.alpha is not None:
        values = reader.rows(0, height)
        values = to_float(values) if values.dtype == torch.uint8 else values
        reader = InMemoryRowReader(on_white(values, photograph.alpha))
    bands = reader_bands(reader)
    if (height, width) != size:
        bands = resampled(bands, (height, width), size)
    profile = photograph.metadata.of_result(size[1], size[0], channels).icc
    write_rows(target, (channels, *size), map(_eight_bits, bands), profile)


def _eight_bits(band: Tensor) -> Tensor:
    return band if band.dtype == torch.uint8 else to_uint8(band)
