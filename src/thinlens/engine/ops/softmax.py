"""Softmax over channels, by extremes, sums and arithmetic."""

from __future__ import annotations

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.expression import add, apply, divide
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.pointwise import of_nodes
from thinlens.engine.ops.reduce import MAXIMUM, SUM, reduce_channels


def _shifted(x: Node) -> Node:
    """Return `x` less its largest channel, whose exponential cannot overflow."""
    largest = reduce_channels(x, MAXIMUM)
    return of_nodes([x, largest], x.size, lambda value, most: add(value, most, -1.0))


def lower_softmax(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `_softmax` over channels."""
    if a["dim"] % 4 != 1:
        return None
    shifted = _shifted(context.node(a["self"]))
    power = of_nodes([shifted], size, lambda x: apply("exp", x))
    return of_nodes([power, reduce_channels(power, SUM)], size, divide)


def lower_log_softmax(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `_log_softmax` over channels."""
    if a["dim"] % 4 != 1:
        return None
    shifted = _shifted(context.node(a["self"]))
    power = of_nodes([shifted], size, lambda x: apply("exp", x))
    total = reduce_channels(power, SUM)
    log = of_nodes([total], total.size, lambda x: apply("log", x))
    return of_nodes([shifted, log], size, lambda x, y: add(x, y, -1.0))
