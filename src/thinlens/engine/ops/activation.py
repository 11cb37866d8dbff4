"""Activations: ReLU, PReLU, SiLU, GELU and others, by operations of the pointwise kernel."""

from __future__ import annotations

import math

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.affine import affine
from thinlens.engine.ops.expression import (
    Expression,
    Value,
    add,
    apply,
    clamp,
    divide,
    multiply,
    number,
)
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.pointwise import pointwise

MIN_SOFTPLUS_THRESHOLD = 15.0
"""From which on softplus differs from its argument by less than a float32 shows."""


def lower_relu(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `relu`: slope 0."""
    return affine(context.node(a["self"]), slope=0.0)


def lower_leaky_relu(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `leaky_relu`: slope `negative_slope`."""
    return affine(context.node(a["self"]), slope=float(a["negative_slope"]))


def lower_prelu(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `prelu` and `_prelu_kernel`: a slope for all channels or for each."""
    slope = context.constant(a["weight"])
    if slope is None or slope.size not in (1, size.channels):
        return None
    return affine(context.node(a["self"]), slope=slope)


def lower_hardtanh(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `hardtanh`: between `min_val` and `max_val`."""
    low, high = float(a["min_val"]), float(a["max_val"])
    return pointwise(context, size, [a["self"]], lambda x: clamp(x, low, high))


def lower_relu6(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `relu6`: between 0 and 6."""
    return pointwise(context, size, [a["self"]], lambda x: clamp(x, 0.0, 6.0))


def _hardsigmoid(x: Value) -> Expression:
    return clamp(add(multiply(x, number(1 / 6)), number(0.5)), 0.0, 1.0)


def lower_hardsigmoid(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `hardsigmoid`: `x / 6 + 1 / 2` between 0 and 1."""
    return pointwise(context, size, [a["self"]], _hardsigmoid)


def lower_hardswish(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `hardswish`: `x hardsigmoid(x)`."""
    return pointwise(context, size, [a["self"]], lambda x: multiply(x, _hardsigmoid(x)))


def lower_silu(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `silu`: `x sigmoid(x)`."""
    return pointwise(context, size, [a["self"]], lambda x: Expression("gate", (x, x)))


def _gelu(x: Value) -> Value:
    error = apply("erf", multiply(x, number(math.sqrt(0.5))))
    return multiply(x, add(multiply(error, number(0.5)), number(0.5)))


def _gelu_by_tanh(x: Value) -> Value:
    """`x (1 + tanh(u)) / 2`, which is `x sigmoid(2 u)`."""
    root = 2 * math.sqrt(2 / math.pi)
    cubic = add(multiply(multiply(x, x), number(0.044715 * root)), number(root))
    return Expression("gate", (x, multiply(x, cubic)))


def lower_gelu(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `gelu`, exact or by tanh."""
    build = _gelu_by_tanh if a["approximate"] == "tanh" else _gelu
    return pointwise(context, size, [a["self"]], build)


def _mish(x: Value) -> Value:
    """`x tanh(log(1 + e^x))`, which is `x w / (w + 2)` with `w = e^x (e^x + 2)`."""
    power = apply("exp", clamp(x, high=20.0))
    w = multiply(power, add(power, number(2.0)))
    return multiply(x, divide(w, add(w, number(2.0))))


def lower_mish(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `mish`."""
    return pointwise(context, size, [a["self"]], _mish)


def lower_elu(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `elu`, which selu is, too."""
    alpha, scale, input_scale = (float(a[key]) for key in ("alpha", "scale", "input_scale"))
    return _elu(context, a, size, alpha, scale, input_scale)


def lower_celu(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `celu`: `alpha (e^(x / alpha) - 1)` on the negative side."""
    alpha = float(a["alpha"])
    return _elu(context, a, size, alpha, 1.0, 1.0 / alpha)


def _elu(
    context: TraceContext,
    a: Arguments,
    size: Size,
    alpha: float,
    scale: float,
    input_scale: float,
) -> Node | None:
    def build(x: Value) -> Value:
        negative = apply("expm1", multiply(clamp(x, high=0.0), number(input_scale)))
        return multiply(add(clamp(x, low=0.0), negative, alpha), number(scale))

    return pointwise(context, size, [a["self"]], build)


def _softplus(x: Value) -> Value:
    """`log(1 + e^x)`, without overflow."""
    small = apply("exp", multiply(apply("absolute", x), number(-1.0)))
    return add(clamp(x, low=0.0), apply("log1p", small))


def lower_softplus(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `softplus`: `log(1 + e^(beta x)) / beta`."""
    beta = float(a["beta"])
    if a["threshold"] < MIN_SOFTPLUS_THRESHOLD:
        return None
    return pointwise(
        context,
        size,
        [a["self"]],
        lambda x: divide(_softplus(multiply(x, number(beta))), number(beta)),
    )


def lower_log_sigmoid(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `log_sigmoid_forward`: `-softplus(-x)`."""
    return pointwise(
        context,
        size,
        [a["self"]],
        lambda x: multiply(_softplus(multiply(x, number(-1.0))), number(-1.0)),
    )
