"""Identity operations: another name of the same tensor."""

from __future__ import annotations

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.lowering import Arguments, TraceContext


def lower_alias(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `alias`, `clone` and `detach` to the node of their input."""
    return context.node(a["self"])


def lower_copy(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `copy`, the result of a write in place, to the node of what is written."""
    source = context.node(a["src"])
    return source if source.size == size else None
