"""Repetition of a tensor along channels, rows or columns."""

from __future__ import annotations

import numpy as np

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.concat import Concat
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.resample import resample
from thinlens.engine.ops.taps import index_map


def lower_repeat(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `repeat`: the whole tensor several times along each axis."""
    x = context.node(a["self"])
    copies = [x] * (size.channels // x.size.channels)
    joined: Node = x
    if len(copies) > 1:
        joined = Concat(copies, Size(size.channels, x.size.height, x.size.width))
    if joined.size == size:
        return joined
    rows = index_map(np.arange(size.height) % x.size.height)
    return resample(joined, rows, index_map(np.arange(size.width) % x.size.width))
