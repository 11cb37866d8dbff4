"""Expressions of single values: what a pointwise step computes, and their algebra.

An expression is a directed graph, not a tree: what occurs twice in it is computed once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thinlens.engine.graph import FloatArray


@dataclass(frozen=True)
class Read:
    """The values of a node's input."""

    index: int


@dataclass(frozen=True, eq=False)
class Expression:
    """An operation of csrc/micro/pointwise.h on other values."""

    operation: str
    operands: tuple[Value, ...]
    constants: tuple[FloatArray, ...] = ()
    """[channels] or [1] each"""


Value = Read | Expression | FloatArray
"""An array is a constant, `[channels]` or `[1]`."""

Number = FloatArray | float

SCALE, FACTOR, SHIFT, SLOPE = range(4)
"""The constants of `combine`: `act(scale a + factor b + shift)`."""


def number(value: Number) -> FloatArray:
    """Return a number, or one for each channel, as an array `[1]` or `[channels]`."""
    return np.asarray(value, np.float32).reshape(-1)


def combine(
    a: Read | Expression,
    b: Read | Expression | None = None,
    *,
    scale: Number = 1.0,
    factor: Number = 1.0,
    shift: Number = 0.0,
    slope: Number = 1.0,
) -> Expression:
    """Return `act(scale a + factor b + shift)`; `slope` is that of its negative side."""
    constants = tuple(number(value) for value in (scale, factor, shift, slope))
    return Expression("combine", (a,) if b is None else (a, b), constants)


def add(a: Value, b: Value, factor: float = 1.0) -> Value:
    """Return `a + factor b`."""
    if isinstance(a, np.ndarray):
        if isinstance(b, np.ndarray):
            return number(a + factor * b)
        return combine(b, scale=factor, shift=a)
    if isinstance(b, np.ndarray):
        return combine(a, shift=factor * b)
    return combine(a, b, factor=factor)


def multiply(a: Value, b: Value) -> Value:
    """Return `a b`."""
    if isinstance(a, np.ndarray):
        return number(a * b) if isinstance(b, np.ndarray) else combine(b, scale=a)
    return combine(a, scale=b) if isinstance(b, np.ndarray) else Expression("multiply", (a, b))


def divide(a: Value, b: Value) -> Value:
    """Return `a / b`."""
    if isinstance(b, np.ndarray):
        with np.errstate(divide="ignore"):
            return multiply(a, np.float32(1) / b)
    return Expression("divide", (a, b))


def maximum(a: Value, b: Value) -> Expression:
    """Return the larger of both; NaN where one is NaN."""
    return Expression("maximum", (a, b))


def minimum(a: Value, b: Value) -> Expression:
    """Return the smaller of both; NaN where one is NaN."""
    return Expression("minimum", (a, b))


def clamp(x: Value, low: Number = -math.inf, high: Number = math.inf) -> Expression:
    """Return `x` between two numbers."""
    return Expression("clamp", (x,), (number(low), number(high)))


def apply(operation: str, x: Value) -> Expression:
    """Return an operation of one value: abs, exp, log, tanh, ..."""
    return Expression(operation, (x,))


def power(x: Value, exponent: float) -> Value | None:
    """Return `x` to a constant power; None where that would not be exact enough."""
    if exponent == 0.5:
        return apply("sqrt", x)
    if exponent < 0:
        inverse = power(x, -exponent)
        return None if inverse is None else divide(number(1.0), inverse)
    if exponent != int(exponent):
        scaled = multiply(number(exponent), apply("log", x))
        return apply("exp", scaled)
    if not 1 <= exponent <= 64:
        return None
    result: Value | None = None
    for bit in f"{int(exponent):b}":
        squared = None if result is None else multiply(result, result)
        result = x if squared is None else squared
        if squared is not None and bit == "1":
            result = multiply(squared, x)
    return result


def instructions(expression: Expression) -> list[Expression]:
    """List the expressions of a graph, operands before those that read them."""
    order: dict[Expression, None] = {}

    def visit(value: Value) -> None:
        if isinstance(value, Expression) and value not in order:
            for operand in value.operands:
                visit(operand)
            order[value] = None

    visit(expression)
    return list(order)


def same(one: Value | None, other: Value | None) -> bool:
    """Whether two values are computed in the same way."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if not isinstance(one, Expression) or not isinstance(other, Expression):
        return type(one) is type(other) and isinstance(one, Read) and one == other
    pairs = [*zip(one.operands, other.operands, strict=False)]
    pairs += zip(one.constants, other.constants, strict=False)
    alike = one.operation == other.operation and len(one.operands) == len(other.operands)
    return alike and all(same(a, b) for a, b in pairs)


def rewritten(expression: Expression, rule: Callable[[Value], Value]) -> Expression:
    """Return a graph in which `rule` replaced every value, operands first."""
    memo: dict[Expression, Value] = {}

    def visit(value: Value) -> Value:
        if not isinstance(value, Expression):
            return rule(value)
        if value not in memo:
            memo[value] = rule(replace(value, operands=tuple(map(visit, value.operands))))
        return memo[value]

    result = visit(expression)
    if not isinstance(result, Expression):
        raise TypeError("an expression became a constant or an input")
    return result


def substituted(expression: Expression, values: Sequence[Value]) -> Expression:
    """Return `expression` with a value in place of each input."""
    return rewritten(
        expression, lambda value: values[value.index] if isinstance(value, Read) else value
    )


def simplified(expression: Expression) -> Expression:
    """Return an equal expression of fewer operations: sums of scaled values are one."""
    uses = Counter(
        operand
        for one in instructions(expression)
        for operand in one.operands
        if isinstance(operand, Expression)
    )
    memo: dict[Expression, Expression] = {}

    def visit(value: Value) -> Value:
        if not isinstance(value, Expression):
            return value
        if value not in memo:
            single = [isinstance(x, Expression) and uses[x] == 1 for x in value.operands]
            operands = tuple(map(visit, value.operands))
            memo[value] = _simplified(replace(value, operands=operands), single)
        return memo[value]

    result = visit(expression)
    return result if isinstance(result, Expression) else expression


def _simplified(value: Expression, single: list[bool]) -> Expression:
    """Merge operands that nothing else reads (`single`) into their reader."""
    if value.operation == "multiply":
        for one, other in ((0, 1), (1, 0)):
            gate = value.operands[other]
            if isinstance(gate, Expression) and gate.operation == "sigmoid" and single[other]:
                return Expression("gate", (value.operands[one], gate.operands[0]))
    if value.operation == "combine":
        if len(value.operands) == 2 and value.operands[0] == value.operands[1]:
            scale, factor, shift, slope = value.constants
            return Expression("combine", value.operands[:1], (scale + factor, factor, shift, slope))
        for index in range(len(value.operands)):
            if single[index]:
                value = _combined(value, index)
    return value


def _combined(outer: Expression, index: int) -> Expression:
    """Fold a linear operand of a sum into it; whole, or if it is a scaled value."""
    inner = outer.operands[index]
    if not isinstance(inner, Expression) or inner.operation != "combine":
        return outer
    if (inner.constants[SLOPE] != 1).any():
        return outer
    constants = list(outer.constants)
    weight = constants[index]
    constants[SHIFT] = constants[SHIFT] + weight * inner.constants[SHIFT]
    constants[index] = weight * inner.constants[SCALE]
    operands = list(outer.operands)
    operands[index] = inner.operands[0]
    if len(inner.operands) == 2:
        if len(outer.operands) == 2:
            return outer
        constants[FACTOR] = weight * inner.constants[FACTOR]
        operands.append(inner.operands[1])
    return Expression("combine", tuple(operands), tuple(constants))
