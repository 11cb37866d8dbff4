"""Identity operations: another name of the same tensor."""

from __future__ import annotations

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.lowering import Arguments, TraceContext


def lower_alias(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `alias` and `detach` to the node of their input."""
    return context.node(a["self"])
