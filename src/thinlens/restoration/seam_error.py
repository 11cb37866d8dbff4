"""Seam errors: how far tiles with a chosen margin are from tiles with a wider one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thinlens.images.tiles import Tile, Tiling

WIDER = 4
"""The margin that a chosen one is compared with, over the chosen one."""

LEAST_WIDER = 32
"""Least margin in pixels that is compared with."""


@dataclass(frozen=True)
class SeamError:
    """The error of one tile of an image, and of tiles of noise, in steps of 255."""

    margin: int
    """Pixels around the tiles, as chosen."""
    wider: int
    """Pixels around the tile that it was compared with."""
    noise: float
    """Largest difference from the whole, on noise."""
    image: float
    """Largest difference between the two tiles in the middle of the image."""
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
            f"tiles with a margin of {self.margin}: the middle one differs from one with a margin "
            f"of {self.wider} by up to {self.image:.2g} of 255 (mean {self.mean:.2g}), noise from "
            f"the whole by up to {self.noise:.2g}"
        )


def wider_margin(margin: int) -> int:
    """Return the margin that a chosen one is compared with.

    >>> wider_margin(10), wider_margin(0)
    (40, 32)
    """
    return max(WIDER * margin, LEAST_WIDER)


def middle_tile(tiling: Tiling, height: int, width: int) -> Tile:
    """Return the tile in the middle of an image: it has seams on as many sides as any.

    >>> middle_tile(Tiling((8, 8)), 24, 20).core
    Box(top=8, left=8, bottom=16, right=16)
    """
    return next(
        tile
        for tile in tiling.tiles(height, width)
        if tile.core.bottom > height // 2 and tile.core.right > width // 2
    )


def core_of(result: Tensor, tile: Tile) -> Tensor:
    """Cut the core out of the result `[C, H, W]` of a tile's outer box."""
    scale = result.shape[-1] // tile.outer.width
    return result[:, *tile.core.slices_in(tile.outer, scale)]
