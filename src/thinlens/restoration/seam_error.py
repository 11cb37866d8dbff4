"""Seam errors: how far tiles with a chosen margin are from tiles with a wider one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from thinlens.images.tiles import Box, Tile, Tiling

WIDER = 3
"""The margin that a chosen one is compared with, over the chosen one."""

CORNER = 32
"""Side in pixels of the corner of a tile that is compared."""

LEAST_WIDER = 24
"""Least margin in pixels that is compared with."""


@dataclass(frozen=True)
class SeamError:
    """The error at the corner of a tile of an image, and of tiles of noise, in steps of 255."""

    margin: int
    """Pixels around the tiles, as chosen."""
    wider: int
    """Pixels around the same corner that it was compared with."""
    noise: float
    """Largest difference from the whole, on noise."""
    image: float
    """Largest difference between the two at the upper left corner of a tile in the middle."""
    mean: float
    """Mean of that difference."""

    def as_json(self) -> dict[str, Any]:
        """Return the entry `seams` of `restore --json`."""
        return {
            "margin": self.margin,
            "compared_with": self.wider,
            "noise": round(self.noise, 4),
            "image": round(self.image, 4),
            "mean": round(self.mean, 4),
        }

    def sentence(self) -> str:
        """Describe the errors in one line."""
        return (
            f"tiles with a margin of {self.margin}: a corner of the middle one differs from that "
            f"of a margin of {self.wider} by up to {self.image:.2g} of 255 (mean {self.mean:.2g}), "
            f"noise from the whole by up to {self.noise:.2g}"
        )


def wider_margin(margin: int) -> int:
    """Return the margin that a chosen one is compared with.

    >>> wider_margin(10), wider_margin(0)
    (30, 24)
    """
    return max(WIDER * margin, LEAST_WIDER)


def seam_corners(tiling: Tiling, height: int, width: int) -> tuple[Tile, Tile]:
    """Return the upper left corner of the middle tile, with its margin and with a wider one.

    Below and on the right both have the wider one.

    >>> narrow, wide = seam_corners(Tiling((64, 64), (10, 10)), 192, 256)
    >>> (narrow.core.top, narrow.core.bottom), (narrow.outer.top, wide.outer.top)
    ((64, 96), (54, 34))
    """
    middle = next(
        tile
        for tile in tiling.tiles(height, width)
        if tile.core.bottom > height // 2 and tile.core.right > width // 2
    )
    top, left = middle.core.top, middle.core.left
    bottom, right = min(top + CORNER, middle.core.bottom), min(left + CORNER, middle.core.right)
    margin = wider_margin(tiling.margin[0])
    widely = replace(tiling, margin=(margin, margin))
    wide = widely.tiles(height, width, within=Box(top, left, bottom, right))[0]
    outer = replace(wide.outer, top=middle.outer.top, left=middle.outer.left)
    return Tile(wide.core, outer), wide


def core_of(result: Tensor, tile: Tile) -> Tensor:
    """Cut the core out of the result `[C, H, W]` of a tile's outer box."""
    scale = result.shape[-1] // tile.outer.width
    return result[:, *tile.core.slices_in(tile.outer, scale)]
