"""Slices: views of channels, and copies of rows and columns that are cut out."""

from __future__ import annotations

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.channel_slice import sliced_channels
from thinlens.engine.ops.concat import CHANNEL_AXES
from thinlens.engine.ops.crop import crop
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.resample import resample
from thinlens.engine.ops.taps import index_map

ROW_AXES = (2, -2)


def lower_slice(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `slice` of channels, rows or columns."""
    x, step = context.node(a["self"]), int(a["step"])
    selected = slice(a["start"], a["end"], step)
    if x.size == size:
        return x
    if a["dim"] in CHANNEL_AXES:
        return sliced_channels(x, range(x.size.channels)[selected])
    rows, columns = range(x.size.height), range(x.size.width)
    if a["dim"] in ROW_AXES:
        rows = rows[selected]
    else:
        columns = columns[selected]
    if step == 1 and rows.start == columns.start == 0:
        return crop(x, len(rows), len(columns))
    return resample(x, index_map(rows), index_map(columns), stride=rows.step)
