"""2-d convolution with sparse weights, fused with residual, activation and pixel shuffle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from thinlens.engine.graph import FloatArray, Footprint, Node, Size
from thinlens.engine.ops.lowering import Arguments, TraceContext, common_value

if TYPE_CHECKING:
    from thinlens.engine import _native
    from thinlens.engine.emitter import Emitter
    from thinlens.engine.native import Core

STRIDES = (1, 2)
"""Those that the micro-kernels are compiled for."""


Slope = float | tuple[float, ...]
"""A number for all output channels, or one for each (before a pixel shuffle)."""


@dataclass(frozen=True, eq=False)
class ConvParams:
    """Weights, bias and geometry of a convolution."""

    weight: FloatArray
    """[c_out, c_in, kh, kw]"""
    bias: FloatArray
    padding: int
    stride: int
    dilation: int
    layer: str = ""
    """The name of the module that the weights belong to."""

    def scaled(self, scale: FloatArray, shift: FloatArray) -> ConvParams:
        """Fold `scale * y + shift`, by output channel, into the weights and the bias."""
        return replace(
            self,
            weight=self.weight * scale[:, None, None, None],
            bias=self.bias * scale + shift,
        )

    @property
    def trailing(self) -> int:
        """Columns right of (rows below) an output's own that the longer kernel side reads."""
        longest: int = max(self.weight.shape[2:])
        return (longest - 1) * self.dilation - self.padding

    @property
    def halo(self) -> int:
        """Rows and columns beyond the input's border that are read, at most."""
        return max(self.padding, self.trailing, 0)


@dataclass(eq=False, kw_only=True)
class Conv(Node):
    """`shuffle(act(conv(inputs[0]) + inputs[1]))`; `inputs[1]`, the residual, is optional."""

    params: ConvParams
    slope: Slope = 1.0
    """Slope of the activation's negative side: 1 is no activation, 0 is ReLU."""
    shuffle: int = 1
    """Factor of the pixel shuffle of the output."""

    name: ClassVar[str] = "conv"
    streams: ClassVar[bool] = True
    can_store_fp32: ClassVar[bool] = True

    @property
    def is_linear(self) -> bool:
        """Whether it is a convolution alone, so that a term can be added to it."""
        return self.slope == 1.0 and self.shuffle == 1 and len(self.inputs) == 1

    @property
    def upscale(self) -> int:
        """The pixel shuffle's factor."""
        return self.shuffle

    def footprint(self, index: int) -> Footprint:
        """The kernel's height for the convolved input, one row for the residual."""
        if index:
            return Footprint()
        params = self.params
        trailing = (params.weight.shape[2] - 1) * params.dilation - params.padding
        return Footprint(params.stride, params.padding, trailing)

    def halo(self, index: int) -> int:
        """The padding and what the kernel reads beyond, of the convolved input."""
        return 0 if index else self.params.halo

    def row_vectors(self, sources: Sequence[int]) -> int:
        """A stride divides a row's vectors, a pixel shuffle multiplies them."""
        return sources[0] // self.params.stride * self.shuffle

    def required_row_vectors(self, index: int, source: int, output: int, shortest: int) -> int:
        """Whole strides for the convolved input; a residual's rows are those of the output."""
        if index:
            return output
        stride = self.params.stride
        return max(shortest, -(-source // stride)) * stride

    def emit(self, emitter: Emitter) -> None:
        """Append the convolution, by the kernel that is selected for it."""
        rows = self.size.height // self.shuffle
        channel_group = emitter.select_kernel(
            self.params, emitter.row_vectors(self.inputs[0]), rows
        )
        residual = emitter.slice(self.inputs[1]) if len(self.inputs) > 1 else None
        emitter.program.conv(
            sparse_weights(emitter.core, self.params),
            emitter.slice(self.inputs[0]),
            emitter.slice(self),
            residual,
            self.slope,
            self.shuffle,
            channel_group,
        )
        positions = self.size.height * self.size.width // self.shuffle**2
        nonzeros = int(np.count_nonzero(self.params.weight))
        emitter.record(self, layer=self.params.layer, multiply_adds=nonzeros * positions)


def lower_convolution(context: TraceContext, a: Arguments, size: Size) -> Node | None:
    """Lower `convolution`: not transposed, not grouped, the same along both axes."""
    padding, stride, dilation = (common_value(a[key]) for key in ("padding", "stride", "dilation"))
    if a["transposed"] or a["groups"] != 1 or stride not in STRIDES:
        return None
    if padding is None or dilation is None:
        return None
    weight = context.weights(a["weight"], 0)
    bias = context.weights(a["bias"], size.channels)
    params = ConvParams(weight, bias, padding, stride, dilation, context.layer(a["weight"]))
    return Conv([context.node(a["input"])], size, params=params)


def sparse_weights(core: Core, params: ConvParams) -> _native.SparseWeights:
    """Return the non-zero weights in compressed sparse rows; the C++ core checks them."""
    c_out, c_in, height, width = params.weight.shape
    rows = np.ascontiguousarray(params.weight.transpose(0, 2, 3, 1), np.float32).reshape(c_out, -1)
    kept = rows != 0
    starts = np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int32)
    positions = np.nonzero(kept)[1].astype(np.int32)
    shape = core.ConvShape(
        c_in, c_out, height, width, params.padding, params.stride, params.dilation
    )
    bias = np.ascontiguousarray(params.bias, np.float32)
    return core.SparseWeights(shape, starts, positions, rows[kept], bias)
