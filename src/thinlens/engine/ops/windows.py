"""Windows of pools: where each begins and ends along an axis, by torch's rules."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from thinlens.engine.ops.taps import IntArray


class AxisWindows(NamedTuple):
    """The windows of all outputs along an axis, inside the input."""

    begins: IntArray
    ends: IntArray
    padded_sizes: IntArray
    """Inputs of each window, the padding's included."""


def pool_windows(size: int, outputs: int, window: int, stride: int, padding: int) -> AxisWindows:
    """Return windows of one size; what lies outside the input, or its padding, is cut off.

    >>> pool_windows(5, 3, window=3, stride=2, padding=1).begins.tolist()
    [0, 1, 3]
    """
    begins = np.arange(outputs, dtype=np.int32) * stride - padding
    ends = np.minimum(begins + window, size + padding)
    sizes = ends - begins
    return AxisWindows(np.maximum(begins, 0), np.minimum(ends, size), sizes)


def adaptive_windows(size: int, outputs: int) -> AxisWindows:
    """Return windows that cover the input, of about the same size."""
    outs = np.arange(outputs)
    begins = outs * size // outputs
    ends = -(-(outs + 1) * size // outputs)
    return AxisWindows(*(side.astype(np.int32) for side in (begins, ends, ends - begins)))
