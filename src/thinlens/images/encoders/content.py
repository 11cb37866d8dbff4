"""What an encoder gets: the bands of an image, their bit depth, and the metadata to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from thinlens.images.metadata import Metadata

FLOAT_BITS = 32
"""The depth of floating-point samples."""

SAMPLE_TYPES: dict[int, type[np.generic]] = {8: np.uint8, 16: np.uint16, FLOAT_BITS: np.float32}
"""By bits a channel, NumPy's type of the stored samples."""

_BLOCK_ROWS = 256
"""Rows that are rounded at once."""

Samples = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Content:
    """An image as it is written: grey, grey with alpha, RGB or RGB with alpha."""

    shape: tuple[int, int, int]
    """Channels (1 to 4), height and width; an even number of channels ends with alpha."""
    bands: Iterable[Tensor]
    """`[C, rows, W]` from top to bottom, uint8, or float in [0, 1]."""
    depth: int = 8
    """Bits a channel: 8, 16, or 32 for floats."""
    metadata: Metadata = field(default_factory=Metadata)
    quality: int | None = None
    """Of lossy formats, from 1 to 100; None: the format's default."""
    small: bool = False
    """Whether lossless formats are compressed well and slowly instead of fast."""

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.shape[0] in (2, 4)

    def blocks(self, most_rows: int) -> Iterator[Samples]:
        """Yield the samples `[rows, W, C]` from top to bottom, at most `most_rows` at once."""
        for band in self.bands:
            for rows in torch.split(band, most_rows, dim=1):
                yield quantized(rows, self.depth)

    def whole(self) -> Samples:
        """Return all samples, `[H, W, C]`."""
        channels, height, width = self.shape
        image = np.empty((height, width, channels), SAMPLE_TYPES[self.depth])
        top = 0
        for block in self.blocks(_BLOCK_ROWS):
            image[top : top + len(block)] = block
            top += len(block)
        return image


Encoder = Callable[[BinaryIO, Content], None]
"""Writes an image into an open file."""


def quantized(image: Tensor, depth: int) -> Samples:
    """Return the samples `[H, W, C]` of an image `[C, H, W]`, uint8 or float in [0, 1].

    Floats are clipped and rounded to the nearest of the 256 or 65,536 levels; at a depth of 32
    they stay floats.

    >>> quantized(torch.tensor([[[0.0, 0.5, 2.0]]]), depth=16).ravel().tolist()
    [0, 32768, 65535]
    """
    pixels = image.permute(1, 2, 0).contiguous().cpu()
    if image.dtype == torch.uint8:
        if depth == 8:
            return np.asarray(pixels.numpy())
        pixels = pixels.float() / 255
    if depth == FLOAT_BITS:
        return np.asarray(pixels.float().numpy())
    levels = pixels.clamp(0, 1).double() * (2**depth - 1)
    return np.asarray(levels.round().numpy().astype(SAMPLE_TYPES[depth]))
