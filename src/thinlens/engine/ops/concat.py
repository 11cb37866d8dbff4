"""Concatenation of channels, in place where its inputs can be computed inside its buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.channel_copy import picked_channels
from thinlens.engine.ops.expression import clamp
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.pointwise import copy_step, of_nodes
from thinlens.errors import UsageError

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
    """Lower `cat` along channels; some may be constant, such as the map of a noise level."""
    if a["dim"] not in CHANNEL_AXES:
        return None
    image = next(context.node(x) for x in a["tensors"] if context.is_node(x))
    sources = [
        context.node(x) if context.is_node(x) else _constant_channels(context, x, image)
        for x in a["tensors"]
    ]
    return Concat(sources, size)


def _constant_channels(context: TraceContext, constant: Tensor, image: Node) -> Node:
    """Return channels of one value each, as a step that reads one channel of `image`."""
    values = context.constant(constant)
    if values is None or values.ndim != 4 or (values != values[:, :, :1, :1]).any():
        raise UsageError("a concatenation with a constant that varies over the image")
    levels = values[0, :, 0, 0]
    repeated = picked_channels(image, [0] * len(levels))
    return of_nodes([repeated], repeated.size, lambda x: clamp(x, levels, levels))
