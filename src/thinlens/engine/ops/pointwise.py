"""Arithmetic on single values of several tensors, in one step; folded into convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from thinlens.engine.graph import FloatArray, Footprint, Node, SingleUse, Size
from thinlens.engine.ops.conv import Conv, Slope
from thinlens.engine.ops.expression import (
    FACTOR,
    SCALE,
    SHIFT,
    SLOPE,
    Expression,
    Read,
    Value,
    combine,
    instructions,
    number,
    simplified,
    substituted,
)
from thinlens.engine.ops.lowering import TraceContext
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter

MAX_INPUTS = 4
"""That a step reads: kPointwiseInputs of csrc/micro/pointwise.h."""

MAX_INSTRUCTIONS = 32
"""Of a step: kPointwiseSteps of csrc/micro/pointwise.h."""


@dataclass(eq=False, kw_only=True)
class Pointwise(Node):
    """An expression of the values of `inputs`, each as large as the output or 1 along some axes."""

    expression: Expression

    name: ClassVar[str] = "pointwise"
    streams: ClassVar[bool] = True
    can_store_fp32: ClassVar[bool] = True

    def footprint(self, index: int) -> Footprint:
        """Its own row, or the only one."""
        return Footprint(1 if self.inputs[index].size.height == self.size.height else 0)

    def row_vectors(self, sources: Sequence[int]) -> int:
        """Those of the inputs that are as wide as the output."""
        return next(
            row_vectors
            for row_vectors, source in zip(sources, self.inputs, strict=True)
            if source.size.width == self.size.width
        )

    def required_row_vectors(self, index: int, source: int, output: int, shortest: int) -> int:
        """Any for a column that is broadcast."""
        return output if self.inputs[index].size.width == self.size.width else source

    def fused(self, single_use: SingleUse) -> Node:
        """Fold it into a convolution, or merge the steps before it into it."""
        merged = self._merged(single_use)
        return merged._folded(single_use) or merged._as_residual(single_use) or merged

    def _merged(self, single_use: SingleUse) -> Pointwise:
        """Compute what only this step reads in it."""
        merged = self
        for source in self.inputs:
            if isinstance(source, Pointwise) and source.size == self.size and single_use(source):
                candidate = merged.with_expression_of(source)
                too_long = len(instructions(candidate.expression)) > MAX_INSTRUCTIONS
                if len(candidate.inputs) <= MAX_INPUTS and not too_long:
                    merged = candidate
        return merged

    def with_expression_of(self, source: Pointwise) -> Pointwise:
        """Return this node with the arithmetic of an input of the same size in it."""
        inputs = list(dict.fromkeys([x for x in self.inputs if x is not source] + source.inputs))
        inner = substituted(source.expression, [Read(inputs.index(x)) for x in source.inputs])
        values = [inner if x is source else Read(inputs.index(x)) for x in self.inputs]
        expression = simplified(substituted(self.expression, values))
        return replace(self, inputs=inputs, expression=expression)

    def _folded(self, single_use: SingleUse) -> Node | None:
        """Return the convolution before it with its scale, shift and activation."""
        x, plain = self.inputs[0], self.expression
        if not isinstance(x, Conv) or not _is_affine(plain) or x.slope != 1.0:
            return None
        if x.size != self.size or not single_use(x):
            return None
        scale, shift, slope = (
            np.repeat(_by_channel(plain.constants[i], self.size.channels), x.shuffle**2)
            for i in (SCALE, SHIFT, SLOPE)
        )
        if len(x.inputs) > 1 and not ((scale == 1).all() and (shift == 0).all()):
            return None
        return replace(x, params=x.params.scaled(scale, shift), slope=_slope(slope))

    def _as_residual(self, single_use: SingleUse) -> Node | None:
        """Return a convolution that computes one of two terms, with the other as its residual."""
        plain, channels = self.expression, self.size.channels
        if plain.operation != "combine" or len(plain.operands) != 2 or len(self.inputs) != 2:
            return None
        for mine, other in ((1, 0), (0, 1)):
            operand, rest = plain.operands[mine], plain.operands[other]
            if not isinstance(operand, Read) or not isinstance(rest, Read):
                return None
            conv, residual = self.inputs[operand.index], self.inputs[rest.index]
            if not isinstance(conv, Conv) or not conv.is_linear or not single_use(conv):
                continue
            if conv.size == residual.size and (plain.constants[(SCALE, FACTOR)[other]] == 1).all():
                weight = _by_channel(plain.constants[(SCALE, FACTOR)[mine]], channels)
                params = conv.params.scaled(weight, _by_channel(plain.constants[SHIFT], channels))
                slope = _slope(_by_channel(plain.constants[SLOPE], channels))
                inputs = [conv.inputs[0], residual]
                return replace(conv, inputs=inputs, params=params, slope=slope)
        return None

    def emit(self, emitter: Emitter) -> None:
        """Append one step."""
        sources = [emitter.slice(source) for source in self.inputs]
        append_step(emitter, sources, emitter.slice(self), self.expression)
        emitter.record(self)


def append_step(
    emitter: Emitter, sources: Sequence[Any], output: Any, expression: Expression
) -> None:
    """Append a step that computes `expression` of native slices into another one."""
    order = instructions(expression)
    columns: dict[bytes, tuple[int, FloatArray]] = {}

    def column(constant: FloatArray) -> int:
        values = _by_channel(constant, output.channels)
        return columns.setdefault(values.tobytes(), (len(columns), values))[0]

    def operand(value: Value) -> int:
        if isinstance(value, Read):
            return value.index
        if isinstance(value, Expression):
            return len(sources) + order.index(value)
        return -1 - column(value)

    native = [
        emitter.core.PointwiseInstruction(
            one.operation, list(map(operand, one.operands)), list(map(column, one.constants))
        )
        for one in order
    ]
    values = [values for _, values in columns.values()] or [np.zeros(output.channels, np.float32)]
    constants = np.ascontiguousarray(np.stack(values, axis=1))
    emitter.program.pointwise(list(sources), output, native, constants)


def copied(x: Node) -> Pointwise:
    """Return a node with the values of `x`."""
    return Pointwise([x], x.size, expression=combine(Read(0)))


def copy_step(emitter: Emitter, source: Any, output: Any) -> None:
    """Append a step that copies native slices."""
    append_step(emitter, [source], output, combine(Read(0)))


def pointwise(
    context: TraceContext,
    size: Size,
    operands: Sequence[Any],
    build: Callable[..., Value | None],
) -> Node | None:
    """Return a node of `build(*values)`, for operands that are tensors, constants or numbers.

    None where `build` returns None.
    """
    inputs: list[Node] = []
    values: list[Value] = []
    for operand in operands:
        if context.is_node(operand):
            node = context.node(operand)
            if not broadcasts(node.size, size):
                raise UsageError(f"the engine cannot compute {size} of {node.size} by broadcasting")
            if node not in inputs:
                inputs.append(node)
            values.append(Read(inputs.index(node)))
        else:
            values.append(constant_by_channel(context, operand, size.channels))
    return _of_expression(inputs, size, build(*values))


def of_nodes(inputs: Sequence[Node], size: Size, build: Callable[..., Value | None]) -> Node:
    """Return a node of `build(*values)` for the values of different nodes."""
    node = _of_expression(list(inputs), size, build(*map(Read, range(len(inputs)))))
    if node is None:
        raise UsageError("the engine does not know this arithmetic")
    return node


def _of_expression(inputs: list[Node], size: Size, expression: Value | None) -> Node | None:
    if isinstance(expression, Read):
        return inputs[expression.index]
    if not isinstance(expression, Expression):
        return None
    return Pointwise(inputs, size, expression=simplified(expression))


def constant_by_channel(context: TraceContext, value: Any, channels: int) -> FloatArray:
    """Return a number or a constant tensor `[1, C, 1, 1]` as `[1]` or `[channels]`.

    Raises `UsageError` for another constant.
    """
    constant = context.constant(value)
    if constant is None:
        raise UsageError("the engine computes with tensors, numbers and constants only")
    shape = (1,) * (4 - constant.ndim) + constant.shape
    if constant.size not in (1, channels) or (constant.size > 1 and shape[1] != constant.size):
        raise UsageError(
            f"the engine computes with constants of one value or one per channel, not "
            f"{tuple(constant.shape)}"
        )
    return number(constant)


def broadcasts(size: Size, to: Size) -> bool:
    """Whether a tensor's values can be broadcast to a size."""
    pairs = ((size.channels, to.channels), (size.height, to.height), (size.width, to.width))
    return all(one in (1, other) for one, other in pairs)


def _is_affine(value: Expression) -> bool:
    """Whether it scales and shifts one input, with an activation or not."""
    return value.operation == "combine" and value.operands == (Read(0),)


def _by_channel(values: FloatArray, channels: int) -> FloatArray:
    return np.ascontiguousarray(np.broadcast_to(values, (channels,)), np.float32)


def _slope(values: FloatArray) -> Slope:
    """Return one number where all are the same."""
    return float(values[0]) if (values == values[0]).all() else tuple(values.tolist())
