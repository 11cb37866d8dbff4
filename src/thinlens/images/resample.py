"""Resampling of an image to any size, from top to bottom, in the memory of some of its rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from thinlens.images.pixels import to_float
from thinlens.images.rows import RowReader

Resampling = Literal["bicubic", "lanczos"]
"""`bicubic` works on the stored values; `lanczos`, which is sharper, in linear light."""

CHUNK = 128
"""Rows of a result that are computed at once."""

_FILTERS = {
    "bicubic": (Image.Resampling.BICUBIC, 2),
    "lanczos": (Image.Resampling.LANCZOS, 3),
}
"""Pillow's filters and how many samples they extend either way; both widen for smaller results."""

_LINEAR_PART, _LINEAR_SLOPE, _OFFSET, _GAMMA = 0.0031308, 12.92, 0.055, 2.4
"""The transfer curve of sRGB (IEC 61966-2-1)."""


def resampled(
    bands: Iterator[Tensor],
    size: tuple[int, int],
    target: tuple[int, int],
    method: Resampling = "bicubic",
) -> Iterator[Tensor]:
    """Resample the bands `[C, rows, W]` of an image of `size` (height, width) to `target`.

    Bands are uint8, or float in [0, 1], as are the float32 bands that are yielded. The result does
    not depend on how the image is cut into bands.

    >>> bands = iter([torch.full((1, 3, 4), 0.5), torch.full((1, 5, 4), 0.5)])
    >>> [band.shape[1:] for band in resampled(bands, (8, 4), (2, 6))]
    [torch.Size([2, 6])]
    """
    height, _ = size
    below, _ = target
    step = height / below
    around = math.ceil(_FILTERS[method][1] * max(1.0, step)) + 1
    rows, top, bottom = torch.empty(0), 0, 0
    for start in range(0, below, CHUNK):
        stop = min(below, start + CHUNK)
        first = max(0, math.floor(start * step) - around)
        last = min(height, math.ceil(stop * step) + around)
        parts = [rows[:, first - top :]] if rows.numel() else []
        while bottom < last:
            band = next(bands)
            values = to_float(band) if band.dtype == torch.uint8 else band.float()
            parts.append(linear_light(values) if method == "lanczos" else values)
            bottom += band.shape[1]
        rows = torch.cat(parts, dim=1)
        top = bottom - rows.shape[1]
        if top < first:
            rows, top = rows[:, first - top :], first
        box = (start * step - top, min(stop * step - top, rows.shape[1]))
        part = _resize(rows, box, (stop - start, target[1]), method).clamp(0, 1)
        yield stored_values(part) if method == "lanczos" else part


def reader_bands(reader: RowReader) -> Iterator[Tensor]:
    """Yield an image from top to bottom."""
    _, height, _ = reader.shape
    for top in range(0, height, CHUNK):
        yield reader.rows(top, min(height, top + CHUNK))


def _resize(
    rows: Tensor, box: tuple[float, float], size: tuple[int, int], method: Resampling
) -> Tensor:
    """Resize the part between the rows `box` of `[C, rows, W]`, looking beyond it."""
    height, width = size
    planes = []
    for plane in rows:
        image = Image.fromarray(plane.contiguous().numpy())
        region = (0.0, box[0], float(plane.shape[1]), box[1])
        resized = image.resize((width, height), _FILTERS[method][0], box=region)
        planes.append(torch.from_numpy(np.array(resized)))
    return torch.stack(planes)


def linear_light(values: Tensor) -> Tensor:
    """Map values that are stored in sRGB's curve to light, both in [0, 1]."""
    curved = ((values + _OFFSET) / (1 + _OFFSET)).clamp(min=0) ** _GAMMA
    return torch.where(values <= _LINEAR_PART * _LINEAR_SLOPE, values / _LINEAR_SLOPE, curved)


def stored_values(light: Tensor) -> Tensor:
    """Map light to the values that are stored for it, the inverse of `linear_light`.

    >>> round(stored_values(linear_light(torch.tensor(0.5))).item(), 6)
    0.5
    """
    curved = (1 + _OFFSET) * light.clamp(min=0) ** (1 / _GAMMA) - _OFFSET
    return torch.where(light <= _LINEAR_PART, light * _LINEAR_SLOPE, curved)
