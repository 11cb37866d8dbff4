"""Bilinear resize with half-pixel centres; relayout, a resize to the same size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from thinlens.engine.graph import Footprint, Node
from thinlens.models.tile_position import GlobalResize, TilePosition

if TYPE_CHECKING:
    from thinlens.engine._native import Placement
    from thinlens.engine.emitter import Emitter
    from thinlens.engine.layout import Placements
    from thinlens.engine.native import Core

MAX_FOOTPRINTS = 1024
"""Pairs of heights whose footprints are remembered."""


@lru_cache(maxsize=MAX_FOOTPRINTS)
def _resize_footprint(low: int, high: int) -> Footprint:
    """Return the rows of `low` that a row of `high` reads."""
    rows = np.arange(high, dtype=np.int64)
    own = rows * low // high
    first = np.maximum((2 * rows + 1) * low - high, 0) // (2 * high)
    above, below = own - first + 1, first + 2 - own
    return Footprint(low, max(0, int(above.max())), max(0, int(below.max())), high)


@dataclass(eq=False, kw_only=True)
class Resize(Node):
    """`inputs[0]` at another height and width."""

    global_resize: GlobalResize | None = None
    """Set where the result depends on the input's position in a larger image."""

    name: ClassVar[str] = "resize"
    free_rows: ClassVar[bool] = True

    is_placed: bool = False
    """Whether it may resize a tile of a larger image, whose rows lie elsewhere."""

    def footprint(self, index: int) -> Footprint:
        """The rows of two samples, and one more on each side: kernels round positions."""
        return _resize_footprint(self.inputs[0].size.height, self.size.height)

    def can_roll(self, placement: Placements) -> bool:
        """A resize of a whole image has the rows of its footprint."""
        return not (self.is_placed and self.global_resize is not None)

    def emit(self, emitter: Emitter) -> None:
        """Append one step, and list it among those that take a tile's position."""
        emitter.program.resize(emitter.slice(self.inputs[0]), emitter.slice(self))
        emitter.resizes.append(self)
        emitter.record(self)

    def placement(self, core: Core, position: TilePosition) -> Placement:
        """Return the output's and the input's rows and columns in those of a larger image."""
        (low,), out, mapping = self.inputs, self.size, self.global_resize
        if mapping is None:
            return core.Placement(
                rows=core.AxisPlacement(0, out.height, 0, low.size.height),
                columns=core.AxisPlacement(0, out.width, 0, low.size.width),
            )
        rows = mapping.axis_position(out.height, position.top, position.height)
        columns = mapping.axis_position(out.width, position.left, position.width)
        return core.Placement(core.AxisPlacement(*rows), core.AxisPlacement(*columns))


@dataclass(eq=False, kw_only=True)
class Relayout(Resize):
    """A resize to the same size, which changes nothing but the vectors per row."""

    target_row_vectors: int

    @property
    def fixed_row_vectors(self) -> int:
        """Those that the reader of the relayout needs."""
        return self.target_row_vectors
