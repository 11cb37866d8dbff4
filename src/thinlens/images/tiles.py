"""Tile geometry: cut images into cores, which partition it, with margins around them.

All sizes are in pixels of the input. The network's input is the core and its margin; only the core
of its output is used.
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

    def slices_in(self, outer: Box, scale: int = 1) -> tuple[slice, slice]:
        """Return the slices that cut this box out of an image of `outer`, enlarged by `scale`.

        >>> Box(2, 3, 6, 9).slices_in(Box(2, 0, 8, 9), scale=2)
        (slice(0, 8, None), slice(6, 18, None))
        """
        top, left = self.top - outer.top, self.left - outer.left
        rows = slice(top * scale, (top + self.height) * scale)
        return rows, slice(left * scale, (left + self.width) * scale)


@dataclass(frozen=True)
class Tile:
    """One piece of an image."""

    core: Box
    outer: Box
    """The core and its margin: the input of the network, by which its cost is counted."""


@dataclass(frozen=True)
class Tiling:
    """A way to cut any image. Sizes are (height, width)."""

    core: tuple[int, int]
    """Size of every core but the last of a row or column, which may be smaller."""
    margin: tuple[int, int] = (0, 0)
    """Pixels on every side, clipped at the image's border."""
    grid: int = 1
    """Tiles begin, and end unless at the border, at multiples of it: strided networks then sample
    the pixels that they sample in the whole image. The margin is rounded up accordingly."""
    full: bool = False
    """Whether tiles at a border are shifted inwards instead of clipped, so that all are equally
    large (to within the grid) and fit into one batch."""
    even: bool = True
    """Whether `balanced` makes all cores of an image nearly equal; else they have the size `core`
    and the last of a row or column is smaller, as SLS cuts them."""

    def __post_init__(self) -> None:
        if min(*self.core, self.grid) < 1 or min(self.margin) < 0:
            raise UsageError(
                f"tiles of {self.core} with margins {self.margin} on a grid of {self.grid}: "
                "wanted at least one pixel, and no negative margin"
            )

    def tiles(self, height: int, width: int, within: Box | None = None) -> list[Tile]:
        """Cut an image, or its region `within`, row by row; every pixel is in exactly one core.

        >>> [tile.core.width for tile in Tiling((48, 48)).tiles(48, 100)]
        [48, 48, 4]
        """
        region = within or Box(0, 0, height, width)
        rows = list(self._axis(0, height, (region.top, region.bottom)))
        columns = list(self._axis(1, width, (region.left, region.right)))
        return [
            Tile(Box(y0, x0, y1, x1), Box(top, left, bottom, right))
            for (y0, y1), (top, bottom) in rows
            for (x0, x1), (left, right) in columns
        ]

    def tile_rows(self, height: int, width: int) -> list[list[Tile]]:
        """Cut an image into rows of tiles."""
        tiles = self.tiles(height, width)
        across = sum(tile.core.top == 0 for tile in tiles)
        return [tiles[start : start + across] for start in range(0, len(tiles), across)]

    def with_half_cores(self) -> Tiling:
        """Return the tiling with cores of half the side."""
        height, width = ((side + 1) // 2 for side in self.core)
        return replace(self, core=(height, width))

    def balanced(self, height: int, width: int) -> Tiling:
        """Return the tiling with as few cores for an image of this size, all of nearly equal size.

        `full` tiles get cores of whole steps of the grid: their outer boxes then have two heights
        and two widths at most, one where the grid divides the image's side.

        >>> Tiling((48, 48)).balanced(48, 100).core
        (48, 34)
        >>> Tiling((48, 48), grid=6, full=True).balanced(48, 100).core
        (48, 36)
        >>> Tiling((48, 48), even=False).balanced(48, 100).core
        (48, 48)
        """
        if not self.even:
            return self
        rows, columns = (
            self._balanced_side(length, side)
            for length, side in zip((height, width), self.core, strict=True)
        )
        return replace(self, core=(rows, columns))

    def balanced_rows(self, height: int, width: int) -> list[list[Tile]]:
        """Cut an image into rows of tiles of nearly equal size: all that routes tiles cuts so.

        >>> [len(row) for row in Tiling((48, 48)).balanced_rows(48, 100)]
        [3]
        """
        return self.balanced(height, width).tile_rows(height, width)

    def _balanced_side(self, length: int, side: int) -> int:
        """Return the side of as few cores as possible, none larger than `side`."""
        count = ceil(length / side)
        grid = self.grid if self.full and self.grid <= side and count > 1 else 1
        while round_up(ceil(length / count), grid) > side:
            count += 1
        return round_up(ceil(length / count), grid)

    def _axis(
        self, axis: int, length: int, region: tuple[int, int]
    ) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Yield (core, outer) along one axis, each as (start, stop)."""
        core, margin, grid = self.core[axis], self.margin[axis], self.grid
        side = round_up(core, grid) + 2 * round_up(margin, grid)
        for start in range(*region, core):
            stop = min(start + core, region[1])
            first = max(0, round_down(start - margin, grid))
            last = min(length, round_up(stop + margin, grid))
            if self.full and last - first < side:
                # A margin clipped on one side is added on the other.
                first = min(first, max(0, round_down(length - side, grid)))
                last = max(last, min(length, first + side))
            yield (start, stop), (first, last)


def overhead(tiles: list[Tile]) -> float:
    """Return the pixels of all outer boxes over those of all cores, at least 1.

    >>> round(overhead([Tile(Box(1, 1, 49, 49), Box(0, 0, 50, 50))]), 4)
    1.0851
    """
    return sum(tile.outer.area for tile in tiles) / sum(tile.core.area for tile in tiles)


SLS_TILINGS = {"sr": Tiling((48, 48), (1, 1)), "deblur": Tiling((240, 256), (3, 5))}
"""The tiles of SLS's adaptive inference (section S4 of the appendix), by task: 50x50 at stride 48
in pixels of the low resolution, and 246x266 with overlap 3 and 5, which cut 720x1280 into 3x5."""


def round_up(value: int, grid: int) -> int:
    """Return the smallest multiple of `grid` that is not below `value`.

    >>> round_up(7, 6), round_down(7, 6)
    (12, 6)
    """
    return -(-value // grid) * grid


def round_down(value: int, grid: int) -> int:
    """Return the largest multiple of `grid` that is not above `value`."""
    return value // grid * grid
