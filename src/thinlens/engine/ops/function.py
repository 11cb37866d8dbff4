"""Functions of one value: exp, log, sqrt, tanh, erf and others that the kernel computes itself."""

from __future__ import annotations

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.expression import apply
from thinlens.engine.ops.lowering import Arguments, Lowering, TraceContext
from thinlens.engine.ops.pointwise import pointwise


def lowering_of(operation: str) -> Lowering:
    """Return the lowering of an ATen function of `self` that is one pointwise operation."""

    def lower(context: TraceContext, a: Arguments, size: Size) -> Node | None:
        return pointwise(context, size, [a["self"]], lambda x: apply(operation, x))

    return lower


lower_abs: Lowering = lowering_of("absolute")
lower_sqrt: Lowering = lowering_of("sqrt")
lower_exp: Lowering = lowering_of("exp")
lower_expm1: Lowering = lowering_of("expm1")
lower_log: Lowering = lowering_of("log")
lower_log1p: Lowering = lowering_of("log1p")
lower_sigmoid: Lowering = lowering_of("sigmoid")
lower_tanh: Lowering = lowering_of("tanh")
lower_erf: Lowering = lowering_of("erf")
lower_floor: Lowering = lowering_of("floor")
