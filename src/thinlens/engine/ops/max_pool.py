"""Max pooling over windows of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from thinlens.engine.graph import Footprint, Node, Size
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.reduce import MAXIMUM, reduce_space
from thinlens.engine.ops.resample import MAX_STREAMED_REACH
from thinlens.engine.ops.subpixel import pair
from thinlens.engine.ops.windows import AxisWindows, adaptive_windows, pool_windows
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter
    from thinlens.engine.layout import Placements


@dataclass(eq=False, kw_only=True)
class MaxPool(Node):
    """The maximum of every window of `inputs[0]`."""

    rows: AxisWindows
    columns: AxisWindows
    stride: int = 1
    """Rows from one window to the next, about."""

    name: ClassVar[str] = "pool"
    free_rows: ClassVar[bool] = True

    def footprint(self, index: int) -> Footprint:
        """The rows of the windows, at most, about a row's own."""
        own = self.stride * np.arange(len(self.rows.begins))
        above, below = own - self.rows.begins, self.rows.ends - 1 - own
        return Footprint(self.stride, max(0, int(above.max())), max(0, int(below.max())))

    def can_roll(self, placement: Placements) -> bool:
        """Rows of windows are computed one by one, where no window is too high."""
        _, above, below, _ = self.footprint(0)
        return above + below <= MAX_STREAMED_REACH

    def emit(self, emitter: Emitter) -> None:
        """Append one step."""
        rows, columns = (
            emitter.core.Windows(windows.begins, windows.ends)
            for windows in (self.rows, self.columns)
        )
        source, out = emitter.slice(self.inputs[0]), emitter.slice(self)
        emitter.program.max_pool(source, out, rows, columns, self.stride)
        emitter.record(self)


def lower_max_pool(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `max_pool2d_with_indices`, of which only the values are computed."""
    if set(pair(a["dilation"])) != {1}:
        raise UsageError("the engine pools windows without gaps, not dilated ones")
    x, window, padding = context.node(a["self"]), pair(a["kernel_size"]), pair(a["padding"])
    stride = pair(a["stride"] or a["kernel_size"])
    rows, columns = (
        pool_windows(before, after, window[axis], stride[axis], padding[axis])
        for axis, (before, after) in enumerate(
            [(x.size.height, size.height), (x.size.width, size.width)]
        )
    )
    return MaxPool([x], size, rows=rows, columns=columns, stride=stride[0])


def lower_adaptive_max_pool(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `adaptive_max_pool2d`, of which only the values are computed."""
    x = context.node(a["self"])
    if (size.height, size.width) == (1, 1):
        return reduce_space(x, MAXIMUM)
    rows = adaptive_windows(x.size.height, size.height)
    columns = adaptive_windows(x.size.width, size.width)
    stride = max(1, x.size.height // size.height)
    return MaxPool([x], size, rows=rows, columns=columns, stride=stride)
