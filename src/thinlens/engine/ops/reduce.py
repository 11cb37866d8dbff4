"""Sums, means, extremes and variances over channels (by pixel) or over space (by channel)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from thinlens.engine.graph import Node, SingleUse, Size
from thinlens.engine.ops import arithmetic
from thinlens.engine.ops.expression import Read, apply, multiply
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.pointwise import Pointwise, of_nodes
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter

SUM, MEAN, MEAN_SQUARE, MAXIMUM, MINIMUM, VARIANCE = (
    "sum",
    "mean",
    "mean_square",
    "maximum",
    "minimum",
    "variance",
)
"""The reductions of csrc/micro/reduce.h."""

SAME_IN_PARTS = (SUM, MEAN, MEAN_SQUARE, MAXIMUM, MINIMUM)
"""Reductions that can be done over one axis after the other (a mean of equally many values)."""


@dataclass(eq=False, kw_only=True)
class ReduceChannels(Node):
    """The reduction of the channels of each pixel."""

    reduction: str
    correction: int = 0
    """Values that a variance does not count."""

    name: ClassVar[str] = "reduce_channels"
    streams: ClassVar[bool] = True
    can_store_fp32: ClassVar[bool] = True

    def fused(self, single_use: SingleUse) -> Node:
        """Compute the mean of squares, instead of squares and their mean."""
        return _of_squares(self, single_use) or self

    def emit(self, emitter: Emitter) -> None:
        """Append one step."""
        emitter.program.reduce_channels(
            emitter.slice(self.inputs[0]),
            emitter.slice(self),
            self.reduction,
            self.inputs[0].size.channels,
            correction=self.correction,
        )
        emitter.record(self)


@dataclass(eq=False, kw_only=True)
class ReduceSpace(Node):
    """The reduction of rows and columns of every `group` channels, for each of them."""

    reduction: str
    group: int = 1
    correction: int = 0
    """Values that a variance does not count."""

    name: ClassVar[str] = "reduce_space"
    free_rows: ClassVar[bool] = True
    can_store_fp32: ClassVar[bool] = True

    def fused(self, single_use: SingleUse) -> Node:
        """Compute the mean of squares, instead of squares and their mean."""
        return _of_squares(self, single_use) or self

    def emit(self, emitter: Emitter) -> None:
        """Append one step."""
        emitter.program.reduce_space(
            emitter.slice(self.inputs[0]),
            emitter.slice(self),
            self.reduction,
            self.group,
            self.correction,
        )
        emitter.record(self)


def _of_squares(node: ReduceChannels | ReduceSpace, single_use: SingleUse) -> Node | None:
    (x,) = node.inputs
    if node.reduction != MEAN or not isinstance(x, Pointwise) or not single_use(x):
        return None
    is_square = x.expression.operation == "multiply" and x.expression.operands == (Read(0), Read(0))
    if not is_square or x.inputs[0].size != x.size:
        return None
    return replace(node, inputs=x.inputs, reduction=MEAN_SQUARE)


def reduce_channels(x: Node, reduction: str, correction: int = 0) -> Node:
    """Return the reduction of all channels of `x`, `[1, H, W]`."""
    size = Size(1, x.size.height, x.size.width)
    return ReduceChannels([x], size, reduction=reduction, correction=correction)


def reduce_space(x: Node, reduction: str, correction: int = 0, group: int = 1) -> Node:
    """Return the reduction of rows and columns of every `group` channels, `[C, 1, 1]`."""
    size = Size(x.size.channels, 1, 1)
    return ReduceSpace([x], size, reduction=reduction, group=group, correction=correction)


def reduced(x: Node, axes: Sequence[int], reduction: str, correction: int = 0) -> Node:
    """Return a reduction over axes of `[B, C, H, W]`.

    Raises `UsageError` where it is over other axes than the channels, rows and columns, or both.
    """
    chosen = {axis % 4 for axis in axes} or {1, 2, 3}
    if chosen == {1}:
        return reduce_channels(x, reduction, correction)
    if chosen == {2, 3}:
        return reduce_space(x, reduction, correction)
    if chosen == {1, 2, 3} and reduction in SAME_IN_PARTS:
        again = MEAN if reduction == MEAN_SQUARE else reduction
        return reduce_channels(reduce_space(x, reduction), again)
    raise UsageError(f"the engine does not know the {reduction} over axes {sorted(chosen)}")


def axes_of(value: Any) -> list[int]:
    """Return the axes in an ATen argument: a number, a list, or None for all."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


def _lowering_of(reduction: str) -> Callable[[TraceContext, Arguments, Size], Node]:
    def lower(context: TraceContext, a: Arguments, size: Size) -> Node:
        return reduced(context.node(a["self"]), axes_of(a.get("dim")), reduction)

    return lower


lower_sum = _lowering_of(SUM)
lower_mean = _lowering_of(MEAN)
lower_amax = _lowering_of(MAXIMUM)
lower_amin = _lowering_of(MINIMUM)


def correction_of(a: Arguments) -> int:
    """Return how many values a variance does not count."""
    if "unbiased" in a:
        return int(a["unbiased"])
    return 1 if a["correction"] is None else int(a["correction"])


def lower_var(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `var`."""
    return reduced(context.node(a["self"]), axes_of(a.get("dim")), VARIANCE, correction_of(a))


def lower_std(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `std`: the root of the variance."""
    variance = lower_var(context, a, size)
    return of_nodes([variance], variance.size, lambda x: apply("sqrt", x))


def lower_var_mean(context: TraceContext, a: Arguments, size: Size) -> list[Node]:
    """Lower `var_mean`: both."""
    variance, axes = lower_var(context, a, size), axes_of(a.get("dim"))
    return [variance, reduced(context.node(a["self"]), axes, MEAN)]


def lower_vector_norm(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `linalg_vector_norm` of order 2: the root of the sum of squares."""
    if a["ord"] != 2:
        return None
    x, axes = context.node(a["self"]), axes_of(a["dim"])
    square = of_nodes([x], x.size, lambda value: multiply(value, value))
    total = reduced(square, axes, SUM)
    return of_nodes([total], total.size, lambda value: apply("sqrt", value))


def lower_max(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `max`: of two tensors, or over axes (values only)."""
    if "other" in a:
        return arithmetic.lower_maximum(context, a, size)
    return lower_amax(context, a, size)


def lower_min(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `min`: of two tensors, or over axes (values only)."""
    if "other" in a:
        return arithmetic.lower_minimum(context, a, size)
    return lower_amin(context, a, size)
