"""Scale and shift per channel with an activation; folded into a convolution where one precedes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from thinlens.engine.graph import FloatArray, Node, SingleUse
from thinlens.engine.ops.add import Add
from thinlens.engine.ops.conv import Conv
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.engine.emitter import Emitter


@dataclass(eq=False, kw_only=True)
class Affine(Node):
    """`act(scale * inputs[0] + shift)`."""

    scale: FloatArray
    """[channels]"""
    shift: FloatArray
    """[channels]"""
    slope: float = 1.0
    """Slope of the activation's negative side: 1 is no activation, 0 is ReLU."""

    name: ClassVar[str] = "affine"
    streams: ClassVar[bool] = True
    can_store_fp32: ClassVar[bool] = True

    @property
    def is_activation(self) -> bool:
        """Whether it neither scales nor shifts."""
        return bool((self.scale == 1).all() and (self.shift == 0).all())

    def fused(self, single_use: SingleUse) -> Node:
        """Fold it into the affine step, the convolution or the sum before it."""
        (x,) = self.inputs
        if not single_use(x):
            return self
        if isinstance(x, Affine) and x.slope == 1.0:
            scale, shift = self.scale * x.scale, self.scale * x.shift + self.shift
            return replace(self, inputs=x.inputs, scale=scale, shift=shift)
        if isinstance(x, Conv) and x.slope == 1.0 and (self.is_activation or len(x.inputs) == 1):
            scale, shift = (np.repeat(a, x.shuffle**2) for a in (self.scale, self.shift))
            return replace(x, params=x.params.scaled(scale, shift), slope=self.slope)
        if isinstance(x, Add) and x.slope == 1.0 and self.is_activation:
            return replace(x, slope=self.slope)
        return self

    def check(self) -> None:
        """A step of its own has one scale for all channels."""
        if len(set(self.scale.tolist())) > 1:
            raise UsageError("the engine scales channels apart only after a convolution")

    def emit(self, emitter: Emitter) -> None:
        """Append one element-wise step."""
        x, out = emitter.slice(self.inputs[0]), emitter.slice(self)
        emitter.program.affine(x, out, float(self.scale[0]), self.shift.tolist(), self.slope)
        emitter.record(self)


def affine(
    x: Node, scale: FloatArray | float = 1.0, shift: FloatArray | float = 0.0, slope: float = 1.0
) -> Affine:
    """Return `act(scale * x + shift)`; numbers stand for all channels."""
    channels = x.size.channels
    scales, shifts = (
        np.full(channels, value, np.float32) if isinstance(value, float) else value
        for value in (scale, shift)
    )
    return Affine([x], x.size, scale=scales, shift=shifts, slope=slope)
