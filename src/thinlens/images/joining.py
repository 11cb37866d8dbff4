"""How do restored tiles become rows of an image again?"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from thinlens.images.tiles import Box, Tile


class Joiner:
    """Collects the tiles of one image from top to bottom, holding few rows at a time.

    Where tiles overlap by `blend` input pixels on either side of the line between their cores,
    they fade into one another; without it every pixel is its core's, bit for bit.
    """

    def __init__(self, height: int, width: int, blend: int = 0) -> None:
        self._height, self._width, self._blend = height, width, blend
        self._top = 0
        """The first input row that has not been taken."""
        self._sum: Tensor | None = None
        self._weight = torch.empty(0)

    def band(
        self,
        bottom: int,
        results: Iterable[tuple[Tile, Tensor]],
        finish: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return `[C, H, W]`, the rows that are finished once a band of tiles is laid down.

        `results` are its tiles, whose cores end at the input row `bottom`, and what their outer
        boxes became. `finish` is done to every tile, or to the rows once they have faded.
        """
        scale = 0
        for tile, pixels in results:
            finished = pixels if self._blend else finish(pixels)
            if not scale:
                scale = pixels.shape[-1] // tile.outer.width
                self.open(bottom, finished, scale)
            self.add(tile, finished, scale)
        done = self.take(bottom, scale)
        return finish(done) if self._blend and done.shape[1] else done

    def open(self, bottom: int, like: Tensor, scale: int) -> None:
        """Make room for cores that end at the input row `bottom`; `like` `[C, ...]` is a result."""
        rows = (min(self._height, bottom + self._blend) - self._top) * scale
        old, weight = self._sum, self._weight
        self._sum = like.new_zeros(len(like), rows, self._width * scale)
        self._weight = torch.zeros(self._sum.shape[1:]) if self._blend else weight
        if old is not None and self._blend:
            self._sum[:, : old.shape[1]] = old
            self._weight[: len(weight)] = weight

    def add(self, tile: Tile, pixels: Tensor, scale: int) -> None:
        """Lay down a tile: `pixels` `[C, H, W]` is the result of its outer box."""
        if self._sum is None:
            raise ValueError("no rows are open")
        here = Box(self._top, 0, self._height, self._width)
        part = self._faded(tile)
        fresh = pixels[:, *part.inside(tile.outer, scale)]
        rows, columns = part.inside(here, scale)
        if not self._blend:
            self._sum[:, rows, columns] = fresh
            return
        weight = self._ramp(tile.core.top, tile.core.bottom, self._height, scale)[:, None]
        weight = weight * self._ramp(tile.core.left, tile.core.right, self._width, scale)
        self._sum[:, rows, columns] += fresh * weight
        self._weight[rows, columns] += weight

    def take(self, bottom: int, scale: int) -> Tensor:
        """Return `[C, H, W]`, the rows that are finished once all cores down to `bottom` are."""
        if self._sum is None:
            raise ValueError("no rows are open")
        last = bottom if bottom == self._height else max(self._top, bottom - self._blend)
        rows = (last - self._top) * scale
        done, self._sum = self._sum[:, :rows], self._sum[:, rows:]
        if self._blend:
            done = done / self._weight[:rows]
            self._weight = self._weight[rows:]
        self._top = last
        return done

    def _faded(self, tile: Tile) -> Box:
        """Return the core and what it shares with its neighbours."""
        core, blend = tile.core, self._blend
        return Box(
            max(0, core.top - blend),
            max(0, core.left - blend),
            min(self._height, core.bottom + blend),
            min(self._width, core.right + blend),
        )

    def _ramp(self, start: int, stop: int, length: int, scale: int) -> Tensor:
        """Return a tile's weights along one axis: a neighbour's there make them 1."""
        blend = self._blend
        first, last = max(0, start - blend), min(length, stop + blend)
        places = torch.arange(first * scale, last * scale) / scale + 0.5 / scale
        rise = (places - (start - blend)) / (2 * blend) if start else torch.ones_like(places)
        fall = (stop + blend - places) / (2 * blend) if stop < length else torch.ones_like(places)
        return torch.minimum(rise, fall).clamp(max=1)
