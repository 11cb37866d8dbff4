"""Scale and shift per channel with an activation."""

from __future__ import annotations

from thinlens.engine.graph import Node
from thinlens.engine.ops.expression import Number, Read, combine
from thinlens.engine.ops.pointwise import Pointwise


def affine(x: Node, scale: Number = 1.0, shift: Number = 0.0, slope: Number = 1.0) -> Pointwise:
    """Return `act(scale x + shift)`: numbers, or arrays `[channels]`.

    `slope` is that of the activation's negative side: 1 is no activation, 0 is ReLU.
    """
    return Pointwise(
        [x], x.size, expression=combine(Read(0), scale=scale, shift=shift, slope=slope)
    )
