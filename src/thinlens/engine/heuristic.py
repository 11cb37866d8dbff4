"""Kernel selection without a measurement: by the density and the channels of a convolution.

Its limits were read off the times of some 300 convolutions on a Xeon with AVX-512 VNNI, with all of
its sets of instructions and with AVX2 alone (`thinlens tune` measures; benchmarks/heuristic.py says
what the heuristic loses).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thinlens.engine.kernel_choice import DENSE, INT16, WINOGRAD, KernelChoice
from thinlens.engine.ops.conv import ConvParams

CHANNEL_GROUP = 16
"""Input channels whose rows, for one tile, stay in the first-level cache."""

GROUPED_FROM = 32
"""Non-zeros per output channel from which input channels are traversed in groups."""

DENSE_FROM = 0.45
"""Fraction of non-zero weights from which the dense kernel is faster than the sparse one."""

MAX_TRANSFORMS = 0.25
"""`transforms` from which Winograd's kernel is slower than the dense one."""

MAX_INT16_REACH = 128
"""Rows and columns that an output reads around its own, for kernels of int16: they convert a block
of the input with all of them."""

PAIRS = ("avx512_vnni", "bf16")
"""In the names of kernels that multiply pairs of 16-bit values faster than fp32. (bf16 was not
measured: it is taken for as fast as int16.)"""

PAIRS_SPEED = 1.45
"""Of a sparse kernel of pairs, over fp32."""

MIN_INT16_OUTPUTS = 16
"""Output channels below which the conversion of the input takes longer than it saves."""

MIN_INT16_NONZEROS = 16
"""Non-zeros per output channel from which a sparse kernel of int16 is selected."""

MIN_INT16_WEIGHTS = 64
"""Weights per output channel from which a dense kernel of int16 is selected."""


@dataclass(frozen=True)
class KernelLimits:
    """What was measured of a family of sets of instructions.

    Winograd's kernel multiplies 36 times for 16 outputs, a quarter of what the dense one does. Its
    transforms of an input are shared by all output channels, and those of an output by all inputs.
    """

    winograd_from: float
    """Density from which it is faster than the sparse kernel of fp32, without transforms."""
    winograd_transforms: float
    """What is added to it for each unit of `transforms`."""
    dense_vectors: int
    """Vectors in a row of all input channels, from which the rows that the dense kernel reads are
    too many for the second-level cache: the sparse one traverses channels in groups."""

    def winograd_density(self, outputs: int, inputs: int) -> float:
        """Return the density from which Winograd's kernel is faster, for so many channels."""
        return self.winograd_from + self.winograd_transforms * transforms(outputs, inputs)


AVX512_LIMITS = KernelLimits(0.15, 2.5, dense_vectors=3500)
LIMITS = KernelLimits(0.34, 0.0, dense_vectors=7000)
"""Of AVX2, and of what was not measured: with fewer registers, transforms take longer."""


def transforms(outputs: int, inputs: int) -> float:
    """Return Winograd's transforms over its products, in proportion."""
    return 1 / outputs + 1 / inputs


@dataclass(frozen=True)
class Heuristic:
    """Selects the kernels of convolutions, for a set of kernels; a `KernelSelector`.

    >>> weight, bias = np.ones((64, 64, 3, 3), np.float32), np.zeros(64, np.float32)
    >>> conv = ConvParams(weight, bias, padding=1, stride=1, dilation=1)
    >>> Heuristic("avx2")(conv, row_vectors=40, rows=180) == WINOGRAD
    True
    """

    kernels: str = ""
    """The name of the set; without one, limits are those of no machine that was measured."""
    int16: bool = False
    """Whether kernels of int16 may be selected."""

    def __call__(self, params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
        """Return a choice for a convolution, its input's vectors per row and its output rows."""
        outputs, inputs = params.weight.shape[0], params.in_channels
        per_output = params.nonzeros / outputs
        grouped = CHANNEL_GROUP if inputs > CHANNEL_GROUP else inputs
        is_int16 = self.int16 and self._has_pairs and fits_int16(params)
        is_int16 &= outputs >= MIN_INT16_OUTPUTS
        dense = self.dense(params, row_vectors, rows)
        if params.nonzeros > self._dense_from(params, dense) * params.weight.size:
            if dense == DENSE and is_int16 and params.weight[0].size >= MIN_INT16_WEIGHTS:
                return INT16 + DENSE
            is_cached = inputs * row_vectors < self._limits.dense_vectors
            return dense if dense == WINOGRAD or is_cached else grouped
        if is_int16 and per_output >= MIN_INT16_NONZEROS:
            return INT16 + inputs
        return grouped if per_output > GROUPED_FROM else inputs

    def dense(self, params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
        """Return a kernel of fp32 that multiplies by zeros too."""
        pays = transforms(*params.weight.shape[:2]) <= MAX_TRANSFORMS
        return WINOGRAD if pays and params.fits_winograd else DENSE

    @property
    def _limits(self) -> KernelLimits:
        return AVX512_LIMITS if "avx512" in self.kernels else LIMITS

    @property
    def _has_pairs(self) -> bool:
        return any(name in self.kernels for name in PAIRS)

    def _dense_from(self, params: ConvParams, dense: KernelChoice) -> float:
        """Return the density from which the kernel `dense` is faster than the sparse one."""
        if dense != WINOGRAD:
            return DENSE_FROM
        is_pairs = self._has_pairs and (self.int16 or "bf16" in self.kernels)
        density = self._limits.winograd_density(*params.weight.shape[:2])
        return density * PAIRS_SPEED if is_pairs else density


def fits_int16(params: ConvParams) -> bool:
    """Whether a convolution has kernels of int16: it reads few rows, and its weights are finite."""
    reach = sum(params.paddings) + sum(params.trailing)
    return reach <= MAX_INT16_REACH and bool(np.isfinite(params.weight).all())
