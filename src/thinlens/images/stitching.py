"""Stitch restored tiles into rows of an image, with optional blending of their overlaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from thinlens.images.tiles import Box, Tile


class TileStitcher:
    """Collects the tiles of one image from top to bottom, with few rows in memory at a time.

    Where tiles overlap by `blend` input pixels on either side of the line between their cores,
    they are cross-faded linearly; without it every pixel is its core's, bit for bit.
    """

    def __init__(self, height: int, width: int, blend: int = 0) -> None:
        self._height, self._width, self._blend = height, width, blend
        self._top = 0
        """The first input row that has not been returned."""
        self._sum: Tensor | None = None
        self._weight = torch.empty(0)

    def stitch_row(
        self,
        bottom: int,
        results: Iterable[tuple[Tile, Tensor]],
        finish: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return `[C, H, W]`, the image rows that are final once a row of tiles is added.

        `results` are its tiles, whose cores end at the input row `bottom`, and the restored pixels
        of their outer boxes. `finish` is applied to every tile, or to the rows after blending.
        """
        scale = 0
        for tile, pixels in results:
            finished = pixels if self._blend else finish(pixels)
            if not scale:
                scale = pixels.shape[-1] // tile.outer.width
                self.extend(bottom, finished, scale)
            self.add(tile, finished, scale)
        rows = self.pop_finished(bottom, scale)
        return finish(rows) if self._blend and rows.shape[1] else rows

    def extend(self, bottom: int, like: Tensor, scale: int) -> None:
        """Allocate rows for cores that end at the input row `bottom`.

        They have the channels, type and device of a result `like` `[C, ...]`.
        """
        rows = (min(self._height, bottom + self._blend) - self._top) * scale
        previous, weight = self._sum, self._weight
        self._sum = like.new_zeros(len(like), rows, self._width * scale)
        self._weight = torch.zeros(self._sum.shape[1:]) if self._blend else weight
        if previous is not None and self._blend:
            self._sum[:, : previous.shape[1]] = previous
            self._weight[: len(weight)] = weight

    def add(self, tile: Tile, pixels: Tensor, scale: int) -> None:
        """Add a tile: `pixels` `[C, H, W]` is the result of its outer box."""
        if self._sum is None:
            raise ValueError("no rows are allocated")
        allocated = Box(self._top, 0, self._height, self._width)
        region = self._blended_region(tile)
        values = pixels[:, *region.slices_in(tile.outer, scale)]
        rows, columns = region.slices_in(allocated, scale)
        if not self._blend:
            self._sum[:, rows, columns] = values
            return
        weight = self._ramp(tile.core.top, tile.core.bottom, self._height, scale)[:, None]
        weight = weight * self._ramp(tile.core.left, tile.core.right, self._width, scale)
        self._sum[:, rows, columns] += values * weight
        self._weight[rows, columns] += weight

    def pop_finished(self, bottom: int, scale: int) -> Tensor:
        """Return `[C, H, W]`, the rows that are final once all cores down to `bottom` are added."""
        if self._sum is None:
            raise ValueError("no rows are allocated")
        last = bottom if bottom == self._height else max(self._top, bottom - self._blend)
        count = (last - self._top) * scale
        rows, self._sum = self._sum[:, :count], self._sum[:, count:]
        if self._blend:
            rows = rows / self._weight[:count]
            self._weight = self._weight[count:]
        self._top = last
        return rows

    def _blended_region(self, tile: Tile) -> Box:
        """Return the core and its overlap with its neighbours."""
        core, blend = tile.core, self._blend
        return Box(
            max(0, core.top - blend),
            max(0, core.left - blend),
            min(self._height, core.bottom + blend),
            min(self._width, core.right + blend),
        )

    def _ramp(self, start: int, stop: int, length: int, scale: int) -> Tensor:
        """Return a tile's weights along one axis; with those of its neighbours they sum to 1."""
        blend = self._blend
        first, last = max(0, start - blend), min(length, stop + blend)
        centres = torch.arange(first * scale, last * scale) / scale + 0.5 / scale
        rise = (centres - (start - blend)) / (2 * blend) if start else torch.ones_like(centres)
        fall = (stop + blend - centres) / (2 * blend) if stop < length else torch.ones_like(centres)
        return torch.minimum(rise, fall).clamp(max=1)
