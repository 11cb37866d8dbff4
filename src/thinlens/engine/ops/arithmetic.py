"""Sums, products, quotients, extremes and powers of tensors and constants."""

from __future__ import annotations

import math

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops import expression
from thinlens.engine.ops.expression import Value, add, clamp, divide, multiply
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.pointwise import constant_by_channel, pointwise


def lower_add(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `add`: `self + alpha * other`."""
    alpha = float(a["alpha"])
    return pointwise(context, size, [a["self"], a["other"]], lambda x, y: add(x, y, alpha))


def lower_sub(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `sub`: `self - alpha * other`."""
    alpha = float(a["alpha"])
    return pointwise(context, size, [a["self"], a["other"]], lambda x, y: add(x, y, -alpha))


def lower_rsub(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `rsub`: `other - alpha * self`."""
    alpha = float(a["alpha"])
    return pointwise(context, size, [a["other"], a["self"]], lambda x, y: add(x, y, -alpha))


def lower_mul(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `mul`."""
    return pointwise(context, size, [a["self"], a["other"]], multiply)


def lower_div(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `div`; not rounded."""
    if a.get("rounding_mode") is not None:
        return None
    return pointwise(context, size, [a["self"], a["other"]], divide)


def lower_reciprocal(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `reciprocal`: `1 / self`."""
    return pointwise(context, size, [1.0, a["self"]], divide)


def lower_neg(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `neg`."""
    return pointwise(context, size, [a["self"], -1.0], multiply)


def lower_square(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `square`."""
    return pointwise(context, size, [a["self"]], lambda x: multiply(x, x))


def lower_rsqrt(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `rsqrt`: `1 / sqrt(self)`."""
    return pointwise(context, size, [a["self"]], lambda x: expression.power(x, -0.5))


def lower_pow(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `pow` with a constant exponent: any fraction, or a whole number up to 64."""
    exponent = context.constant(a["exponent"])
    if exponent is None or exponent.size != 1:
        return None
    number = float(exponent.reshape(()))
    return pointwise(context, size, [a["self"]], lambda x: expression.power(x, number))


def lower_maximum(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `maximum`."""
    return pointwise(context, size, [a["self"], a["other"]], expression.maximum)


def lower_minimum(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `minimum`."""
    return pointwise(context, size, [a["self"], a["other"]], expression.minimum)


def lower_clamp(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `clamp`, `clamp_min` and `clamp_max`, by numbers or constants."""
    low, high = (
        number if a.get(name) is None else constant_by_channel(context, a[name], size.channels)
        for name, number in (("min", -math.inf), ("max", math.inf))
    )
    return pointwise(context, size, [a["self"]], lambda x: clamp(x, low, high))


def lower_addcmul(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `addcmul`: `self + value * tensor1 * tensor2`."""
    operands, value = [a["self"], a["tensor1"], a["tensor2"]], float(a["value"])
    return pointwise(context, size, operands, lambda x, y, z: add(x, multiply(y, z), value))


def lower_addcdiv(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `addcdiv`: `self + value * tensor1 / tensor2`."""
    operands, value = [a["self"], a["tensor1"], a["tensor2"]], float(a["value"])
    return pointwise(context, size, operands, lambda x, y, z: add(x, divide(y, z), value))


def lower_lerp(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `lerp`: `self + weight * (end - self)`."""

    def build(x: Value, y: Value, weight: Value) -> Value:
        return add(x, multiply(weight, add(y, x, -1.0)))

    return pointwise(context, size, [a["self"], a["end"], a["weight"]], build)
