"""Weighted sum of two tensors with an activation; a residual connection of a convolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from thinlens.engine.graph import Node, SingleUse
from thinlens.engine.ops.conv import Conv

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter


@dataclass(eq=False, kw_only=True)
class Add(Node):
    """`act(inputs[0] + factor * inputs[1])`."""

    factor: float = 1.0
    slope: float = 1.0
    """Slope of the activation's negative side: 1 is no activation, 0 is ReLU."""

    name: ClassVar[str] = "add"
    streams: ClassVar[bool] = True
    can_store_fp32: ClassVar[bool] = True

    def fused(self, single_use: SingleUse) -> Node:
        """Make it the residual of a convolution that computes one of its terms."""
        x, y = self.inputs
        terms = [(x, y, 1.0)] if self.factor == 1.0 else []
        for conv, residual, factor in [(y, x, self.factor), *terms]:
            if isinstance(conv, Conv) and conv.is_linear and single_use(conv):
                if conv is residual:
                    continue
                scale = np.full(conv.size.channels, factor, np.float32)
                params = conv.params.scaled(scale, np.zeros_like(scale))
                return replace(conv, inputs=[conv.inputs[0], residual], params=params)
        return self

    def emit(self, emitter: Emitter) -> None:
        """Append one element-wise step."""
        x, y = (emitter.slice(source) for source in self.inputs)
        emitter.program.add(x, y, emitter.slice(self), self.factor, self.slope)
        emitter.record(self)
