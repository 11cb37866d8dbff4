"""Padding by constants, or by the image reflected or its border repeated; cropping where negative.

Zeros before a convolution are read from its input's halo; the last row and column of the network's
input are repeated while it is packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.input import Input
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.resample import Resample, resample
from thinlens.engine.ops.taps import padded
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter
    from thinlens.engine.layout import Placements


@dataclass(eq=False)
class Pad(Node):
    """The network's input with its last column and row repeated."""

    name: ClassVar[str] = "pad"
    free_rows: ClassVar[bool] = True
    packs_input: ClassVar[bool] = True

    def can_roll(self, placement: Placements) -> bool:
        """Rows of the image are packed one by one."""
        return True

    def emit(self, emitter: Emitter) -> None:
        """Pack the image, which repeats its last column and row up to the tensor's size."""
        emitter.program.pack(emitter.slice(self))
        emitter.record(self)


def lower_replication_pad(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `replication_pad2d`."""
    x, sides = context.node(a["self"]), a["padding"]
    if isinstance(x, Input) and sides[0] == sides[2] == 0 and min(sides) >= 0:
        return Pad([x], size)
    return _pad(x, sides, "replicate")


def lower_reflection_pad(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `reflection_pad2d`."""
    return _pad(context.node(a["self"]), a["padding"], "reflect")


def lower_constant_pad(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `constant_pad_nd` of rows and columns."""
    sides = [*a["pad"], 0, 0, 0, 0][: max(4, len(a["pad"]))]
    if any(sides[4:]):
        raise UsageError("the engine pads rows and columns, not channels")
    fill = float(a["value"] or 0.0)
    node = _pad(context.node(a["self"]), sides, "constant", fill)
    adds_zeros = fill == 0.0 and min(sides) >= 0
    return replace(node, zero_padding=(sides[2], sides[0])) if adds_zeros else node


def _pad(x: Node, sides: Sequence[int], mode: str, fill: float = 0.0) -> Resample:
    left, right, top, bottom = (int(side) for side in sides[:4])
    rows = padded(x.size.height, top, bottom, mode)
    columns = padded(x.size.width, left, right, mode)
    return resample(x, rows, columns, fill)
