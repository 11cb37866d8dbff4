"""Average pooling over windows of any size, as sums of rows and columns."""

from __future__ import annotations

import numpy as np

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.reduce import MEAN, reduce_space
from thinlens.engine.ops.resample import resample
from thinlens.engine.ops.subpixel import pair
from thinlens.engine.ops.taps import AxisTaps, boxes
from thinlens.engine.ops.windows import adaptive_windows, pool_windows


def lower_average_pool(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `avg_pool2d`."""
    x, window, padding = context.node(a["self"]), pair(a["kernel_size"]), pair(a["padding"] or 0)
    stride, divisor = pair(a["stride"] or a["kernel_size"]), a["divisor_override"]
    axes: list[AxisTaps] = []
    for axis, (before, after) in enumerate(
        zip((x.size.height, x.size.width), (size.height, size.width), strict=True)
    ):
        begins, ends, divisors = pool_windows(
            before, after, window[axis], stride[axis], padding[axis]
        )
        if not a["count_include_pad"]:
            divisors = ends - begins
        if divisor:
            divisors = np.full(after, divisor if axis else 1, np.int32)
        axes.append(boxes(begins, ends, divisors))
    rows, columns = axes
    return resample(x, rows, columns, stride=stride[0])


def lower_adaptive_average_pool(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `adaptive_avg_pool2d`."""
    x = context.node(a["self"])
    if (size.height, size.width) == (1, 1):
        return reduce_space(x, MEAN)
    rows = boxes(*adaptive_windows(x.size.height, size.height))
    columns = boxes(*adaptive_windows(x.size.width, size.width))
    return resample(x, rows, columns, stride=max(1, x.size.height // size.height))
