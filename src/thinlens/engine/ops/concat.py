"""Concatenation of channels, in place where its inputs can be computed inside its buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.pointwise import copy_step

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter
    from thinlens.engine.layout import Placements

CHANNEL_AXES = (1, -3)


@dataclass(eq=False)
class Concat(Node):
    """The channels of all `inputs`, one input after the other."""

    name: ClassVar[str] = "concat"
    streams: ClassVar[bool] = True

    def nested_inputs(self) -> list[tuple[Node, int]]:
        """All inputs, at their channels of the output."""
        nested, first = [], 0
        for source in self.inputs:
            nested.append((source, first))
            first += source.size.channels
        return nested

    def is_step(self) -> bool:
        """It is no step: its inputs lie in its buffer."""
        return False

    def can_stream(self, placement: Placements) -> bool:
        """An input that must be copied would make a step of its own."""
        buffer, start = placement[self]
        return all(
            placement[source] == (buffer, start + first) for source, first in self.nested_inputs()
        )

    def emit(self, emitter: Emitter) -> None:
        """Copy the inputs that do not lie in the output's buffer already."""
        out = emitter.slice(self)
        for node, first in self.nested_inputs():
            source = emitter.slice(node)
            if (source.tensor, source.first) != (out.tensor, out.first + first):
                target = emitter.core.Slice(out.tensor, out.first + first, source.channels)
                copy_step(emitter, source, target)
                emitter.record_step("copy", [node.size, node.size])


def lower_cat(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `cat` along channels."""
    sources = [context.node(tensor) for tensor in a["tensors"]]
    return Concat(sources, size) if a["dim"] in CHANNEL_AXES else None
