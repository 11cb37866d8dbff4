"""Max pooling over square windows without padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.lowering import Arguments, TraceContext, common_value

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter


@dataclass(eq=False, kw_only=True)
class MaxPool(Node):
    """The maximum of every window of `inputs[0]`."""

    window: int
    """Side of a window, in pixels."""
    stride: int
    """Pixels from one window to the next."""

    name: ClassVar[str] = "pool"
    free_rows: ClassVar[bool] = True

    def emit(self, emitter: Emitter) -> None:
        """Append one step."""
        source, out = emitter.slice(self.inputs[0]), emitter.slice(self)
        emitter.program.max_pool(source, out, self.window, self.stride)
        emitter.record(self)


def lower_max_pool(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `max_pool2d_with_indices`, of which only the values are computed."""
    window = common_value(a["kernel_size"])
    stride = common_value(a["stride"] or a["kernel_size"])
    if window is None or stride is None or any(a["padding"]) or a["ceil_mode"]:
        return None
    if set(a["dilation"]) != {1}:
        return None
    return MaxPool([context.node(a["self"])], size, window=window, stride=stride)
