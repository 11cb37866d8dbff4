"""Pixel shuffle (sub-pixel convolution), stored by the convolution before it, and its reverse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from thinlens.engine.graph import Node, SingleUse, Size
from thinlens.engine.ops.channel_copy import shuffled_pixels, unshuffled_pixels
from thinlens.engine.ops.conv import Conv
from thinlens.engine.ops.convolution import MAX_SHUFFLE
from thinlens.engine.ops.expression import Read, combine
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.engine.ops.pointwise import Pointwise
from thinlens.errors import UsageError


@dataclass(eq=False, kw_only=True)
class PixelShuffle(Node):
    """`inputs[0]` `[c r^2, h, w]` as `[c, h r, w r]`."""

    factor: int

    name: ClassVar[str] = "pixel_shuffle"

    def fused(self, single_use: SingleUse) -> Node:
        """Let the convolution before it store its output shuffled; both terms of a sum apart."""
        (x,) = self.inputs
        if isinstance(x, Conv) and x.shuffle == 1 and single_use(x):
            if len(x.inputs) == 1:
                return replace(x, size=self.size, shuffle=self.factor)
            conv, residual = replace(x, inputs=x.inputs[:1]), x.inputs[1]
            if x.slope == 1.0 and single_use(residual):
                terms = [replace(conv, size=self.size, shuffle=self.factor)]
                again = replace(self, inputs=[residual])
                inputs = [*terms, again.fused(single_use)]
                sum_of_both = combine(Read(0), Read(1))
                return Pointwise(inputs, self.size, expression=sum_of_both)
        return shuffled_pixels(x, self.factor)


def lower_pixel_shuffle(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `pixel_shuffle`."""
    factor = int(a["upscale_factor"])
    if factor > MAX_SHUFFLE:
        raise UsageError(f"the engine shuffles pixels by at most {MAX_SHUFFLE}, not {factor}")
    return PixelShuffle([context.node(a["self"])], size, factor=factor)


def lower_pixel_unshuffle(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `pixel_unshuffle`: a convolution of that stride, or part of the one that follows."""
    return unshuffled_pixels(context.node(a["self"]), int(a["downscale_factor"]))
