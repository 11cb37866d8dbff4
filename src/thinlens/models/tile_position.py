"""Tile positions: where in the whole image an input lies, for networks whose result depends on it.

Most networks are local. One that resizes features to the size of its input is not: where a pixel is
sampled then depends on the height and width of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from thinlens.errors import UsageError


@dataclass(frozen=True)
class TilePosition:
    """Where an input lies in the whole image, in pixels."""

    top: int
    left: int
    height: int
    """Of the whole image, as `width` is."""
    width: int


_positions: ContextVar[tuple[TilePosition, ...]] = ContextVar("positions", default=())


@contextmanager
def tile_positions(positions: Sequence[TilePosition]) -> Iterator[None]:
    """Set, until the block ends, where each input of a network's batch lies in its image.

    >>> with tile_positions([TilePosition(0, 48, 96, 96)]):
    ...     current_tile_positions()
    (TilePosition(top=0, left=48, height=96, width=96),)
    """
    token = _positions.set(tuple(positions))
    try:
        yield
    finally:
        _positions.reset(token)


def current_tile_positions() -> tuple[TilePosition, ...]:
    """Return where each input of the batch lies; empty where every input is a whole image."""
    return _positions.get()


class AxisPosition(NamedTuple):
    """Where one axis of an input, and of its low-resolution map, lies in that of the image."""

    start: int
    """The input's first pixel, of `whole`."""
    whole: int
    """Pixels of the whole image."""
    first: int
    """The map's first sample, of `samples`."""
    samples: int
    """Samples of the whole image's map."""


@dataclass(frozen=True)
class GlobalResize:
    """Resizes a map of lower resolution to the network's input, as if that were the whole image."""

    stride: int
    """Pixels from one sample of the map to the next."""
    low_size: Callable[[int], int]
    """Maps the whole image's height or width to that of its low-resolution map."""

    def resize(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize `low` `[B, C, h, w]` bilinearly to `size`, the height and width of the input.

        A tile gets the values of the whole image, except where they depend on samples outside of
        the tile. One that begins at no multiple of the stride is a `UsageError`.
        """
        positions = current_tile_positions()
        if not positions:
            resized = F.interpolate(low, size=size, mode="bilinear", align_corners=False)
            _on_resize.get()(self, resized)
            return resized
        rows = [self._weights(size[0], low.shape[-2], p.top, p.height) for p in positions]
        columns = [self._weights(size[1], low.shape[-1], p.left, p.width) for p in positions]
        across = low @ torch.stack(columns).to(low)[:, None].mT
        return torch.stack(rows).to(low)[:, None] @ across

    def axis_position(self, pixels: int, start: int, whole: int) -> AxisPosition:
        """Return the position of a tile of `pixels` that begins at `start` of `whole`."""
        if start % self.stride:
            raise UsageError(f"a tile begins at {start}: wanted a multiple of {self.stride}")
        whole = max(whole, start + pixels)  # of an image that the network has padded
        return AxisPosition(start, whole, start // self.stride, self.low_size(whole))

    def _weights(self, pixels: int, samples: int, start: int, whole: int) -> Tensor:
        """Return the bilinear weights `[pixels, samples]` of a tile's pixels."""
        _, whole, first, total = self.axis_position(pixels, start, whole)
        # As torch does for align_corners=False, to the bit of float32: centres are at one half.
        centres = (torch.arange(start, start + pixels).float() + 0.5) * (total / whole) - 0.5
        centres = centres.clamp(0, total - 1)
        lower = centres.floor()
        fraction = (centres - lower)[:, None]
        lower, upper = (
            (index - first).clamp(0, samples - 1).long()[:, None]
            for index in (lower, (lower + 1).clamp(max=total - 1))
        )
        weights = torch.zeros(pixels, samples).scatter_add_(1, lower, 1 - fraction)
        return weights.scatter_add_(1, upper, fraction)


ResizeCallback = Callable[[GlobalResize, Tensor], None]
"""Called with a resize and its result, at the size of a whole image."""

_on_resize: ContextVar[ResizeCallback] = ContextVar(
    "on_resize", default=lambda resize, resized: None
)


@contextmanager
def record_resizes(callback: ResizeCallback) -> Iterator[None]:
    """Call `callback` for every `GlobalResize` until the block ends, as an engine's tracer does."""
    token = _on_resize.set(callback)
    try:
        with tile_positions(()):
            yield
    finally:
        _on_resize.reset(token)
