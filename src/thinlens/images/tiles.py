"""How is an image cut into tiles?

Pure geometry, in pixels of the input: a tile is a core, which it alone gives to the result, and
around it a margin, which its network sees too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from thinlens.errors import UsageError


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels; `bottom` and `right` are not in it."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def area(self) -> int:
        """Pixels."""
        return self.height * self.width

    def inside(self, outer: Box, scale: int = 1) -> tuple[slice, slice]:
        """Return the slices that cut this box out of an image of `outer`, enlarged by `scale`."""
        top, left = self.top - outer.top, self.left - outer.left
        rows = slice(top * scale, (top + self.height) * scale)
        return rows, slice(left * scale, (left + self.width) * scale)


@dataclass(frozen=True)
class Tile:
    """One piece of an image."""

    core: Box
    outer: Box
    """The core and its margin: what goes through a network, and what its cost is counted by."""


@dataclass(frozen=True)
class Tiling:
    """A way to cut any image. Sizes are (height, width)."""

    core: tuple[int, int]
    """Of every tile but the last of a row or column, which may be smaller."""
    margin: tuple[int, int] = (0, 0)
    """On every side, clipped at the image's border."""
    grid: int = 1
    """Tiles begin, and end unless at the border, at multiples of it: strided networks then see
    the samples that they would see in the whole image. The margin grows to reach the next one."""
    full: bool = False
    """Whether tiles at a border are shifted inwards instead of clipped, so that all are equally
    large (to within the grid) and fit into one batch."""

    def __post_init__(self) -> None:
        if min(*self.core, self.grid) < 1 or min(self.margin) < 0:
            raise UsageError(
                f"tiles of {self.core} with margins {self.margin} on a grid of {self.grid}: "
                "wanted at least one pixel, and no negative margin"
            )

    def tiles(self, height: int, width: int, within: Box | None = None) -> list[Tile]:
        """Cut an image, or the cores that make up the part `within` of it, row by row.

        Every pixel is in exactly one core.
        """
        part = within or Box(0, 0, height, width)
        rows = list(self._axis(0, height, (part.top, part.bottom)))
        columns = list(self._axis(1, width, (part.left, part.right)))
        return [
            Tile(Box(y0, x0, y1, x1), Box(top, left, bottom, right))
            for (y0, y1), (top, bottom) in rows
            for (x0, x1), (left, right) in columns
        ]

    def bands(self, height: int, width: int) -> list[list[Tile]]:
        """Cut an image into rows of tiles."""
        tiles = self.tiles(height, width)
        across = sum(tile.core.top == 0 for tile in tiles)
        return [tiles[start : start + across] for start in range(0, len(tiles), across)]

    def halved(self) -> Tiling:
        """Return the tiling with cores of half the side."""
        height, width = ((side + 1) // 2 for side in self.core)
        return replace(self, core=(height, width))

    def evenly(self, height: int, width: int) -> Tiling:
        """Return the tiling whose cores are as few for an image of this size, and nearly alike."""
        sizes = zip((height, width), self.core, strict=True)
        rows, columns = (ceil(length / ceil(length / side)) for length, side in sizes)
        return replace(self, core=(rows, columns))

    def _axis(
        self, axis: int, length: int, part: tuple[int, int]
    ) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Yield (core, outer) along one axis, each as (start, stop)."""
        core, margin, grid = self.core[axis], self.margin[axis], self.grid
        side = round_up(core, grid) + 2 * round_up(margin, grid)
        for start in range(*part, core):
            stop = min(start + core, part[1])
            first = max(0, _down(start - margin, grid))
            last = min(length, round_up(stop + margin, grid))
            if self.full and last - first < side:
                # What the border takes from one side of a tile, its other side gets back.
                first = min(first, max(0, _down(length - side, grid)))
                last = max(last, min(length, first + side))
            yield (start, stop), (first, last)


def overhead(tiles: list[Tile]) -> float:
    """Return the pixels that networks see over the pixels that there are, at least 1."""
    return sum(tile.outer.area for tile in tiles) / sum(tile.core.area for tile in tiles)


SLS_TILINGS = {"sr": Tiling((48, 48), (1, 1)), "deblur": Tiling((240, 256), (3, 5))}
"""The tiles of SLS's adaptive inference (section S5), by task: 50x50 at stride 48 in pixels of the
low resolution, and 246x266 with overlap 3 and 5, which cut 720x1280 into 3x5."""


def _down(value: int, grid: int) -> int:
    return value // grid * grid


def round_up(value: int, grid: int) -> int:
    """Return the smallest multiple of `grid` that is not below `value`."""
    return -(-value // grid) * grid
