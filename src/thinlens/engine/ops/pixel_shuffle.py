"""Pixel shuffle (sub-pixel convolution), stored by the convolution before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from thinlens.engine.graph import Node, SingleUse, Size
from thinlens.engine.ops.conv import Conv
from thinlens.engine.ops.lowering import Arguments, TraceContext
from thinlens.errors import UsageError


@dataclass(eq=False, kw_only=True)
class PixelShuffle(Node):
    """`inputs[0]` `[c r^2, h, w]` as `[c, h r, w r]`; only after a convolution."""

    factor: int

    name: ClassVar[str] = "pixel_shuffle"

    def fused(self, single_use: SingleUse) -> Node:
        """Let the convolution before it store its output shuffled."""
        (x,) = self.inputs
        if isinstance(x, Conv) and x.shuffle == 1 and len(x.inputs) == 1 and single_use(x):
            return replace(x, size=self.size, shuffle=self.factor)
        raise UsageError("the engine does not know a pixel shuffle that follows no convolution")


def lower_pixel_shuffle(context: TraceContext, a: Arguments, size: Size) -> Node:
    """Lower `pixel_shuffle`."""
    return PixelShuffle([context.node(a["self"])], size, factor=a["upscale_factor"])
