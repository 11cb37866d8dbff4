"""Replication padding of the input at its right and bottom edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.input import Input
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter


@dataclass(eq=False)
class Pad(Node):
    """The network's input with its last column and row repeated."""

    name: ClassVar[str] = "pad"
    free_rows: ClassVar[bool] = True
    packs_input: ClassVar[bool] = True

    def check(self) -> None:
        """Only packing the input repeats rows and columns."""
        if not isinstance(self.inputs[0], Input):
            raise UsageError("the engine pads only the input")

    def emit(self, emitter: Emitter) -> None:
        """Pack the image, which repeats its last column and row up to the tensor's size."""
        emitter.program.pack(emitter.slice(self))
        emitter.record(self)


def lower_pad(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `replication_pad2d`, if nothing is added at the left and the top."""
    left, _, top, _ = a["padding"]
    return Pad([context.node(a["self"])], size) if left == 0 and top == 0 else None
