"""Which kernel runs a convolution: the dense one, or the sparse one by groups of input channels?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from thinlens.engine.graph import Kernel
from thinlens.engine.native import Core

if TYPE_CHECKING:
    from thinlens.engine import _native

DENSE = 0
"""The choice of the dense kernel. Every other choice is a number of input channels, which the
sparse kernel walks together."""

Choose = Callable[[Kernel, int, int], int]
"""Given a convolution, the columns of its input's grid and its output rows, returns a choice."""

GROUP = 16
"""Input channels whose rows, for one tile, stay in the first-level cache."""

DENSE_FROM = 0.45
"""Share of living weights from which `guess` takes the dense kernel."""

MANY_ENTRIES = 64
"""Living weights an output channel from which `guess` walks input channels in groups."""


def candidates(kernel: Kernel) -> list[int]:
    """List the choices there are."""
    channels = kernel.weight.shape[1]
    return [DENSE, channels, *([GROUP] if channels > GROUP else [])]


def guess(kernel: Kernel, columns: int, rows: int) -> int:
    """Choose by rule, for convolutions that are too small to be worth a measurement."""
    c_out, channels = kernel.weight.shape[:2]
    living = np.count_nonzero(kernel.weight)
    if living > DENSE_FROM * kernel.weight.size:
        return DENSE
    return GROUP if channels > GROUP and living > MANY_ENTRIES * c_out else channels


def dense(kernel: Kernel, columns: int, rows: int) -> int:
    """Choose the dense kernel always."""
    return DENSE


def table(core: Core, kernel: Kernel) -> _native.SparseWeights:
    """List a kernel's living weights for the C++ core, which checks them."""
    c_out, c_in, height, width = kernel.weight.shape
    rows = np.ascontiguousarray(kernel.weight.transpose(0, 2, 3, 1), np.float32).reshape(c_out, -1)
    living = rows != 0
    starts = np.concatenate([[0], np.cumsum(living.sum(1))]).astype(np.int32)
    positions = np.nonzero(living)[1].astype(np.int32)
    shape = core.ConvShape(
        c_in, c_out, height, width, kernel.padding, kernel.stride, kernel.dilation
    )
    bias = np.ascontiguousarray(kernel.bias, np.float32)
    return core.SparseWeights(shape, starts, positions, rows[living], bias)
