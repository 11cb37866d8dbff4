"""Sums, differences, products and quotients of tensors and constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.add import Add
from thinlens.engine.ops.affine import affine
from thinlens.engine.ops.gate import Product
from thinlens.engine.ops.lowering import Arguments, TraceContext


def lower_add(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `add`: `self + alpha * other`."""
    return _sum(context, a["self"], a["other"], float(a["alpha"]), size)


def lower_sub(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `sub`: `self - alpha * other`."""
    return _sum(context, a["self"], a["other"], -float(a["alpha"]), size)


def _sum(context: TraceContext, one: Any, other: Any, factor: float, size: Size) -> Node | None:
    shift = context.per_channel(other, size.channels)
    if shift is not None:
        return affine(context.node(one), shift=shift * factor)
    shift = context.per_channel(one, size.channels)
    if shift is not None:
        return affine(context.node(other), scale=factor, shift=shift)
    x, y = context.node(one), context.node(other)
    return Add([x, y], size, factor=factor) if x.size == y.size else None


def lower_mul(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `mul`: by a constant, or of a tensor and its gate."""
    for one, other in ((a["self"], a["other"]), (a["other"], a["self"])):
        scale = context.per_channel(other, size.channels)
        if scale is not None:
            return affine(context.node(one), scale=scale)
    x, y = context.node(a["self"]), context.node(a["other"])
    return Product([x, y], size) if x.size == y.size else None


def lower_div(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `div` by a constant."""
    scale = context.per_channel(a["other"], size.channels)
    if scale is None:
        return None
    return affine(context.node(a["self"]), scale=np.float32(1) / scale)
