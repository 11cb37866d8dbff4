"""Slice of the output at its right and bottom edge: a crop, made while the output is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.lowering import Arguments, TraceContext

SPATIAL_AXES = (2, 3, -1, -2)


@dataclass(eq=False)
class Crop(Node):
    """The first rows and columns of `inputs[0]`; only at the network's output."""

    name: ClassVar[str] = "crop"
    crops_output: ClassVar[bool] = True


def lower_slice(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `slice` of rows or columns from the first one on."""
    x = context.node(a["self"])
    if x.size == size:
        return x
    crops = a["dim"] in SPATIAL_AXES and not a["start"] and a["step"] == 1
    return Crop([x], size) if crops else None
