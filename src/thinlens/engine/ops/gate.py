"""Sigmoid gate `x * sigmoid(y)`, fused from a sigmoid and a product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from thinlens.engine.graph import Node, SingleUse, Size
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter


@dataclass(eq=False)
class Gate(Node):
    """`inputs[0] * sigmoid(inputs[1])`."""

    name: ClassVar[str] = "gate"
    streams: ClassVar[bool] = True
    can_store_fp32: ClassVar[bool] = True

    def emit(self, emitter: Emitter) -> None:
        """Append one element-wise step."""
        x, y = (emitter.slice(source) for source in self.inputs)
        emitter.program.gate(x, y, emitter.slice(self))
        emitter.record(self)


@dataclass(eq=False)
class Sigmoid(Node):
    """`sigmoid(inputs[0])`: only as a factor of a product."""

    name: ClassVar[str] = "sigmoid"

    def check(self) -> None:
        """No step computes a sigmoid alone."""
        raise UsageError("the engine does not know this use of a sigmoid")


@dataclass(eq=False)
class Product(Node):
    """`inputs[0] * inputs[1]`: only with a sigmoid as one factor."""

    name: ClassVar[str] = "product"

    def fused(self, single_use: SingleUse) -> Node:
        """Make a gate of it and its sigmoid."""
        for x, y in (self.inputs, self.inputs[::-1]):
            if isinstance(y, Sigmoid) and single_use(y):
                return Gate([x, y.inputs[0]], self.size)
        return self

    def check(self) -> None:
        """No step computes a product alone."""
        raise UsageError("the engine does not know this use of a product")


def lower_sigmoid(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `sigmoid`."""
    return Sigmoid([context.node(a["self"])], size)
