"""Piecewise linear activations: ReLU and leaky ReLU."""

from __future__ import annotations

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.affine import affine
from thinlens.engine.ops.lowering import Arguments, TraceContext


def lower_relu(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `relu`: slope 0."""
    return affine(context.node(a["self"]), slope=0.0)


def lower_leaky_relu(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `leaky_relu`: slope `negative_slope`."""
    return affine(context.node(a["self"]), slope=float(a["negative_slope"]))
