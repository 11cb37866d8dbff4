"""How does a network know which part of an image its input is?

Most networks need not know. One that resizes features to the size of its input does: where a
pixel falls then depends on the height and width of the whole image.
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
class Place:
    """Where an input lies in the whole image, in pixels."""

    top: int
    left: int
    height: int
    """Of the whole image, as `width` is."""
    width: int


_places: ContextVar[tuple[Place, ...]] = ContextVar("places", default=())


@contextmanager
def placed(places: Sequence[Place]) -> Iterator[None]:
    """Tell networks, until the block ends, where each input of their batch lies."""
    token = _places.set(tuple(places))
    try:
        yield
    finally:
        _places.reset(token)


def current_places() -> tuple[Place, ...]:
    """Return where each input of the batch lies; empty where every input is a whole image."""
    return _places.get()


class Along(NamedTuple):
    """Where one axis of an input, and of its low map, lies in that of the whole image."""

    start: int
    """The input's first pixel, of `whole`."""
    whole: int
    first: int
    """The low map's first sample, of `samples`."""
    samples: int


@dataclass(frozen=True)
class LowMap:
    """A map of lower resolution that is resized to the network's input."""

    stride: int
    """Pixels from one of its samples to the next."""
    side: Callable[[int], int]
    """Its height or width where the whole image's is the argument."""

    def resized(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize `low` `[B, C, h, w]` bilinearly to `size`, the height and width of the input.

        A tile gets what the whole image would give it, but where that reads samples that lie
        outside of the tile. One that begins at no multiple of the stride is a `UsageError`.
        """
        places = current_places()
        if not places:
            whole = F.interpolate(low, size=size, mode="bilinear", align_corners=False)
            _watch.get()(self, whole)
            return whole
        rows = [self._shares(size[0], low.shape[-2], p.top, p.height) for p in places]
        columns = [self._shares(size[1], low.shape[-1], p.left, p.width) for p in places]
        across = low @ torch.stack(columns).to(low)[:, None].mT
        return torch.stack(rows).to(low)[:, None] @ across

    def along(self, pixels: int, start: int, whole: int) -> Along:
        """Return where `pixels` of a tile lie that begins at `start` of `whole`."""
        if start % self.stride:
            raise UsageError(f"a tile begins at {start}: wanted a multiple of {self.stride}")
        whole = max(whole, start + pixels)  # of an image that the network has padded
        return Along(start, whole, start // self.stride, self.side(whole))

    def _shares(self, pixels: int, samples: int, start: int, whole: int) -> Tensor:
        """Return `[pixels, samples]`: how much of each sample is in each pixel of a tile."""
        _, whole, first, total = self.along(pixels, start, whole)
        # As torch does for align_corners=False, to the bit of float32: centres are at one half.
        places = (torch.arange(start, start + pixels).float() + 0.5) * (total / whole) - 0.5
        places = places.clamp(0, total - 1)
        lower = places.floor()
        share = places - lower
        lower, upper = (
            (index - first).clamp(0, samples - 1).long()[:, None]
            for index in (lower, (lower + 1).clamp(max=total - 1))
        )
        shares = torch.zeros(pixels, samples).scatter_add_(1, lower, 1 - share[:, None])
        return shares.scatter_add_(1, upper, share[:, None])


Watch = Callable[[LowMap, Tensor], None]
"""Called with a low map and what became of it at the size of a whole image."""

_watch: ContextVar[Watch] = ContextVar("watch", default=lambda low_map, resized: None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Let an engine know, until the block ends, which results depend on where an input lies."""
    token = _watch.set(watch)
    try:
        with placed(()):
            yield
    finally:
        _watch.reset(token)
