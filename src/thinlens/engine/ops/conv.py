"""2-d convolution with sparse weights, fused with residual, activation and pixel shuffle."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from thinlens.engine.graph import FloatArray, Footprint, Node, SingleUse
from thinlens.engine.kernel_choice import (
    WINOGRAD,
    WINOGRAD_ROWS,
    KernelChoice,
    channel_group,
    is_int16,
)
from thinlens.engine.ops.subpixel import AxisPair, pair

if TYPE_CHECKING:
    from thinlens.engine import _native
    from thinlens.engine.emitter import Emitter
    from thinlens.engine.native import Core
    from thinlens.engine.tuner import KernelSelector

DIGEST_BYTES = 16
"""Of the values of weights: enough that no two of a network collide."""

Slope = float | tuple[float, ...]
"""A number for all output channels, or one for each (before a pixel shuffle)."""


@dataclass(frozen=True, eq=False)
class ConvParams:
    """Weights, bias and geometry of a convolution; numbers or pairs of rows and columns."""

    weight: FloatArray
    """[c_out, c_in / groups, kh, kw]"""
    bias: FloatArray
    padding: int | AxisPair
    """Above and left. What is below and right follows from the size of the output."""
    stride: int | AxisPair
    dilation: int | AxisPair
    layer: str = ""
    """The name of the module that the weights belong to."""
    groups: int = 1

    def scaled(self, scale: FloatArray, shift: FloatArray) -> ConvParams:
        """Fold `scale * y + shift`, by output channel, into the weights and the bias."""
        is_scaled = bool((scale != 1).any())
        return replace(
            self,
            weight=self.weight * scale[:, None, None, None] if is_scaled else self.weight,
            bias=self.bias * scale + shift,
        )

    @cached_property
    def nonzeros(self) -> int:
        """The number of weights that are not 0."""
        return int(np.count_nonzero(self.weight))

    @property
    def in_channels(self) -> int:
        """Channels of the input, of all groups."""
        channels: int = self.weight.shape[1]
        return channels * self.groups

    @cached_property
    def paddings(self) -> AxisPair:
        """Rows above, and columns to the left."""
        return pair(self.padding)

    @cached_property
    def strides(self) -> AxisPair:
        """Rows, and columns, of the input from one output to the next."""
        return pair(self.stride)

    @cached_property
    def dilations(self) -> AxisPair:
        """Rows, and columns, of the input from one weight to the next."""
        return pair(self.dilation)

    @cached_property
    def trailing(self) -> AxisPair:
        """Rows below, and columns right of, an output's own that it reads."""
        (height, width), (y, x) = self.weight.shape[2:], self.dilations
        return (height - 1) * y - self.paddings[0], (width - 1) * x - self.paddings[1]

    @cached_property
    def halo(self) -> int:
        """Rows and columns beyond the input's border that are read, at most."""
        return max(*self.paddings, *self.trailing, 0)

    @cached_property
    def fits_winograd(self) -> bool:
        """Whether Winograd's kernel can run it."""
        steps = {*self.strides, *self.dilations, self.groups}
        return self.weight.shape[2:] == (3, 3) and steps == {1}


@dataclass(eq=False, kw_only=True)
class Conv(Node):
    """`shuffle(act(conv(inputs[0]) + inputs[1]))`; `inputs[1]`, the residual, is optional."""

    params: ConvParams
    slope: Slope = 1.0
    """Slope of the activation's negative side: 1 is no activation, 0 is ReLU."""
    shuffle: int = 1
    """Factor of the pixel shuffle of the output."""
    kernel: KernelChoice = field(init=False)
    """The kernel that runs it; selected by the plan."""
    input_range: float = 0.0
    """Of its convolved input, for kernels of int16; set by the plan."""

    name: ClassVar[str] = "conv"
    streams: ClassVar[bool] = True
    can_store_fp32: ClassVar[bool] = True

    @property
    def is_linear(self) -> bool:
        """Whether it is a convolution alone, so that a term can be added to it."""
        return self.slope == 1.0 and self.shuffle == 1 and len(self.inputs) == 1

    def select_kernel(self, selector: KernelSelector, row_vectors: int) -> None:
        """Set the kernel for an input of `row_vectors` vectors per row."""
        params = self.params
        if params.groups > 1:  # which only the sparse kernel convolves
            self.kernel = params.in_channels
        else:
            self.kernel = selector(params, row_vectors, self.size.height // self.shuffle)

    @property
    def row_step(self) -> int:
        """The rows of a tile of Winograd's kernel."""
        return WINOGRAD_ROWS if self.kernel == WINOGRAD else 1

    @property
    def upscale(self) -> int:
        """The pixel shuffle's factor."""
        return self.shuffle

    def fused(self, single_use: SingleUse) -> Node:
        """Read the input's input, where a convolution can do what the input does too."""
        x, *residual = self.inputs
        if residual or self.shuffle > 1:
            return self
        folded = x.folded_into(self, is_only_reader=single_use(x))
        return folded.fused(single_use) if folded else self

    def footprint(self, index: int) -> Footprint:
        """The kernel's height for the convolved input, one row for the residual."""
        if index:
            return Footprint()
        params = self.params
        return Footprint(params.strides[0], params.paddings[0], params.trailing[0])

    def halo(self, index: int) -> int:
        """The padding and what the kernel reads beyond, of the convolved input."""
        if index:
            return 0
        params, rows = self.params, self.size.height // self.shuffle
        last = (rows - 1) * params.strides[0] + params.trailing[0]
        below = last - (self.inputs[0].size.height - 1)
        return max(*params.paddings, below, params.trailing[1] - params.strides[1] + 1, 0)

    def row_vectors(self, sources: Sequence[int]) -> int:
        """A stride divides a row's vectors, a pixel shuffle multiplies them."""
        return sources[0] // self.params.strides[1] * self.shuffle

    def required_row_vectors(self, index: int, source: int, output: int, shortest: int) -> int:
        """Whole strides for the convolved input; a residual's rows are those of the output."""
        if index:
            return output
        stride = self.params.strides[1]
        return max(-(-shortest // self.shuffle), -(-source // stride)) * stride

    def emit(self, emitter: Emitter) -> None:
        """Append the convolution, by the kernel that is selected for it."""
        params = self.params
        emitter.record_range(self.inputs[0], params.layer)
        residual = emitter.slice(self.inputs[1]) if len(self.inputs) > 1 else None
        emitter.program.conv(
            emitter.weights.sparse(params),
            emitter.slice(self.inputs[0]),
            emitter.slice(self),
            residual,
            self.slope,
            self.shuffle,
            channel_group(self.kernel),
            self.input_range if is_int16(self.kernel) else 0.0,
        )
        positions = self.size.height * self.size.width // self.shuffle**2
        multiply_adds = params.nonzeros * positions
        emitter.record_conv(self, params.layer, self.kernel, multiply_adds)


class WeightStore:
    """Sparse weights of the plans of one network: equal ones, of other sizes, are stored once."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._stored: dict[tuple[object, ...], _native.SparseWeights] = {}
        self._digests: dict[int, tuple[weakref.ref[FloatArray], bytes]] = {}
        """By the identity of an array, which does not change; as long as it is in memory."""

    def sparse(self, params: ConvParams) -> _native.SparseWeights:
        """Return the non-zero weights of a convolution."""
        geometry = (params.paddings, params.strides, params.dilations, params.groups)
        values = (params.weight, params.bias)
        key = (*geometry, params.weight.shape, *map(self._digest, values))
        if key not in self._stored:
            self._stored[key] = sparse_weights(self._core, params)
        return self._stored[key]

    def _digest(self, values: FloatArray) -> bytes:
        key, digests = id(values), self._digests
        if key not in digests:
            content = np.ascontiguousarray(values).data
            digest = blake2b(content, digest_size=DIGEST_BYTES).digest()
            digests[key] = (weakref.ref(values, lambda _: digests.pop(key, None)), digest)
        return digests[key][1]


def sparse_weights(core: Core, params: ConvParams) -> _native.SparseWeights:
    """Return the non-zero weights in compressed sparse rows; the C++ core checks them."""
    c_out, c_in, height, width = params.weight.shape
    rows = np.ascontiguousarray(params.weight.transpose(0, 2, 3, 1), np.float32).reshape(c_out, -1)
    kept = rows != 0
    starts = np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int32)
    positions = np.nonzero(kept)[1].astype(np.int32)
    shape = core.ConvShape(
        c_in * params.groups,
        c_out,
        height,
        width,
        params.paddings,
        params.strides,
        params.dilations,
        params.groups,
    )
    bias = np.ascontiguousarray(params.bias, np.float32)
    return core.SparseWeights(shape, starts, positions, rows[kept], bias)
