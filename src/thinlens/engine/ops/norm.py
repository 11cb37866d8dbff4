"""Normalization: of each pixel over its channels, of groups of channels over the image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from thinlens.engine.graph import FloatArray, Node, Size
from thinlens.engine.ops.expression import (
    SCALE,
    SHIFT,
    SLOPE,
    Read,
    Value,
    add,
    apply,
    divide,
    instructions,
    multiply,
    number,
    power,
    same,
)
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.pointwise import Pointwise, of_nodes
from thinlens.engine.ops.reduce import (
    MEAN,
    MEAN_SQUARE,
    VARIANCE,
    ReduceChannels,
    reduce_space,
)

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter


@dataclass(eq=False, kw_only=True)
class ChannelNorm(Node):
    """`weight (x - mean) / sqrt(variance + epsilon) + bias`, over the channels of each pixel."""

    weight: FloatArray
    """[channels]"""
    bias: FloatArray
    epsilon: float

    name: ClassVar[str] = "channel_norm"
    streams: ClassVar[bool] = True
    can_store_fp32: ClassVar[bool] = True

    def emit(self, emitter: Emitter) -> None:
        """Append one step."""
        emitter.program.channel_norm(
            emitter.slice(self.inputs[0]),
            emitter.slice(self),
            self.weight.tolist(),
            self.bias.tolist(),
            self.epsilon,
        )
        emitter.record(self)


def channel_norm(
    x: Node, weight: FloatArray | None, bias: FloatArray | None, epsilon: float
) -> ChannelNorm:
    """Return the layer normalization of each pixel of `x` over its channels."""
    channels = x.size.channels
    weight = np.ones(channels, np.float32) if weight is None else weight.reshape(channels)
    bias = np.zeros(channels, np.float32) if bias is None else bias.reshape(channels)
    return ChannelNorm([x], x.size, weight=weight, bias=bias, epsilon=epsilon)


def lower_layer_norm(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `native_layer_norm` over the channels of tokens, which the caller says by `dim` 1."""
    x = context.node(a["input"])
    if a.get("dim") != 1 or list(a["normalized_shape"]) != [x.size.channels]:
        return None
    weight, bias = (
        None if a[key] is None else context.weights(a[key], x.size.channels)
        for key in ("weight", "bias")
    )
    return channel_norm(x, weight, bias, float(a["eps"]))


def lower_group_norm(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `native_group_norm`."""
    weight, bias = (
        None if a[key] is None else context.weights(a[key], size.channels)
        for key in ("weight", "bias")
    )
    x = context.node(a["input"])
    return group_norm(x, x.size.channels // int(a["group"]), weight, bias, float(a["eps"]))


def group_norm(
    x: Node, group: int, weight: FloatArray | None, bias: FloatArray | None, epsilon: float
) -> Node:
    """Return `x` normalized over rows, columns and every `group` channels."""
    mean, variance = (reduce_space(x, kind, group=group) for kind in (MEAN, VARIANCE))
    gain = np.ones(1, np.float32) if weight is None else weight

    def inverse_root(v: Value) -> Value:
        root = apply("sqrt", add(v, number(epsilon)))
        return multiply(divide(number(1.0), root), gain)

    scale = of_nodes([variance], variance.size, inverse_root)
    shift = np.zeros(1, np.float32) if bias is None else bias
    return of_nodes(
        [x, mean, scale],
        x.size,
        lambda value, m, s: add(multiply(add(value, m, -1.0), s), shift),
    )


def recognized_norm(node: Node) -> Node:
    """Return a normalization in place of the arithmetic of one; any other node as it is."""
    if not isinstance(node, Pointwise):
        return node
    scaled = _with_scale_and_shift(node)
    return scaled or _normalization(node) or node


def _with_scale_and_shift(node: Pointwise) -> ChannelNorm | None:
    """Fold a scale and a shift by channel into the normalization before it."""
    value, x = node.expression, node.inputs[0]
    if not isinstance(x, ChannelNorm) or value.operation != "combine" or len(value.operands) != 1:
        return None
    if not isinstance(value.operands[0], Read) or (value.constants[SLOPE] != 1).any():
        return None
    scale, shift = value.constants[SCALE], value.constants[SHIFT]
    weight, bias = x.weight * scale, x.bias * scale + shift
    return replace(x, weight=weight.astype(np.float32), bias=bias.astype(np.float32))


def _normalization(node: Pointwise) -> ChannelNorm | None:
    """Return the node of `(x - mean(x)) / sqrt(variance(x) + epsilon)`, over channels."""
    whole = _expanded(node)
    for exponent in (0.5, -0.5):
        for i, j, k in permutations(range(len(whole.inputs)), 3):
            centred, root = add(Read(i), Read(j), -1.0), Read(k)
            x = whole.inputs[i]
            if not _is_reduction_of(whole.inputs[j], x, MEAN):
                continue
            norms = [divide(centred, root)]
            if exponent < 0:
                norms = [multiply(centred, root), multiply(root, centred)]
            epsilon = _epsilon_of_root(whole.inputs[k], x, exponent)
            if epsilon is not None and any(same(whole.expression, norm) for norm in norms):
                return channel_norm(x, None, None, epsilon)
    return None


def _expanded(node: Pointwise) -> Pointwise:
    """Return `node` with the differences from a mean over channels that it reads in it."""
    for source in node.inputs:
        if isinstance(source, Pointwise) and source.size == node.size and _is_centred(source):
            node = node.with_expression_of(source)
    return node


def _is_centred(node: Pointwise) -> bool:
    """Whether it is `x - mean(x)`."""
    is_difference = len(node.inputs) == 2 and same(node.expression, add(Read(0), Read(1), -1.0))
    return is_difference and _is_reduction_of(node.inputs[1], node.inputs[0], MEAN)


def _is_reduction_of(node: Node, x: Node, reduction: str) -> bool:
    return (
        isinstance(node, ReduceChannels)
        and node.reduction == reduction
        and node.correction == 0
        and node.inputs == [x]
    )


def _epsilon_of_root(node: Node, x: Node, exponent: float) -> float | None:
    """Return the epsilon of `(variance(x) + epsilon) ** exponent`."""
    if not isinstance(node, Pointwise) or not _is_variance_of(node.inputs[0], x):
        return None
    sums = [one for one in instructions(node.expression) if one.operation == "combine"]
    epsilon = sums[0].constants[SHIFT] if sums else np.zeros(0, np.float32)
    if epsilon.size != 1:
        return None
    expected = power(add(Read(0), epsilon), exponent)
    return float(epsilon[0]) if same(node.expression, expected) else None


def _is_variance_of(node: Node, x: Node) -> bool:
    """Whether it is the variance over channels, or the mean of `(x - mean(x))` squared."""
    if _is_reduction_of(node, x, VARIANCE):
        return True
    if not isinstance(node, ReduceChannels) or not isinstance(node.inputs[0], Pointwise):
        return False
    whole = _expanded(node.inputs[0])
    if whole.inputs[0] is not x or not _is_reduction_of(whole.inputs[-1], x, MEAN):
        return False
    centred = add(Read(0), Read(1), -1.0)
    if _is_reduction_of(node, node.inputs[0], MEAN_SQUARE):
        return same(whole.expression, centred)
    is_mean = _is_reduction_of(node, node.inputs[0], MEAN)
    return is_mean and same(whole.expression, multiply(centred, centred))
