"""Tables of taps: which rows or columns of an input each output sums up, with what weights.

Positions and weights are computed in float32 as torch does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thinlens.engine.graph import FloatArray

if TYPE_CHECKING:
    from thinlens.engine import _native
    from thinlens.engine.native import Core

CUBIC = np.float32(-0.75)
"""The parameter of torch's cubic kernel."""

IntArray = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class AxisTaps:
    """The taps of all outputs along an axis."""

    indices: IntArray
    """[outputs, taps]; -1: a constant, where all have one tap."""
    weights: FloatArray
    """[outputs, taps]"""

    def native(self, core: Core) -> _native.Taps:
        """Return the table for the native program, which checks it."""
        taps = self.indices.shape[1]
        return core.Taps(self.indices.reshape(-1), self.weights.reshape(-1), taps)


def index_map(indices: NDArray[np.int64] | range) -> AxisTaps:
    """Return one tap of weight 1 for each output; -1 stands for a constant."""
    table = np.asarray(indices, np.int32).reshape(-1, 1)
    return AxisTaps(table, np.ones(table.shape, np.float32))


def padded(size: int, before: int, after: int, mode: str) -> AxisTaps:
    """Return a padding by a mode of `torch.nn.functional.pad`; negative sides are cropped.

    >>> padded(3, 2, 1, "reflect").indices[:, 0].tolist()
    [2, 1, 0, 1, 2, 1]
    """
    positions = np.arange(-before, size + after)
    if mode == "constant":
        return index_map(np.where((positions < 0) | (positions >= size), -1, positions))
    if mode == "reflect":
        positions = np.abs(positions)
        return index_map(np.where(positions >= size, 2 * (size - 1) - positions, positions))
    return index_map(np.clip(positions, 0, size - 1))


def nearest(size: int, outputs: int, factor: float | None, *, exact: bool) -> AxisTaps:
    """Return nearest-neighbour interpolation; `exact` takes the pixel's centre."""
    scale = _scale(size, outputs, factor)
    centre = np.float32(0.5 if exact else 0.0)
    positions = np.floor((np.arange(outputs, dtype=np.float32) + centre) * scale)
    return index_map(np.minimum(positions.astype(np.int64), size - 1))


def linear(size: int, outputs: int, factor: float | None, *, align_corners: bool) -> AxisTaps:
    """Return linear interpolation."""
    positions = _positions(size, outputs, factor, align_corners=align_corners)
    positions = np.maximum(positions, np.float32(0))
    low = np.minimum(positions.astype(np.int32), size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = np.clip(positions - low.astype(np.float32), 0, 1)
    weights = np.stack([np.float32(1) - weight, weight], 1)
    return AxisTaps(np.stack([low, high], 1), weights.astype(np.float32))


def cubic(size: int, outputs: int, factor: float | None, *, align_corners: bool) -> AxisTaps:
    """Return cubic interpolation, with the border's pixels repeated."""
    positions = _positions(size, outputs, factor, align_corners=align_corners)
    low = np.floor(positions)
    distances = (positions - low)[:, None] + np.array([1, 0, -1, -2], np.float32)
    indices = low.astype(np.int32)[:, None] + np.array([-1, 0, 1, 2], np.int32)
    weights = _cubic_kernel(np.abs(distances), CUBIC)
    return AxisTaps(np.clip(indices, 0, size - 1).astype(np.int32), weights.astype(np.float32))


def boxes(begins: IntArray, ends: IntArray, divisors: IntArray) -> AxisTaps:
    """Return the sums over windows, divided; windows of fewer taps repeat one with weight 0."""
    taps = int((ends - begins).max())
    offsets = np.arange(taps, dtype=np.int32)
    indices = np.minimum(begins[:, None] + offsets, ends[:, None] - 1)
    kept = begins[:, None] + offsets < ends[:, None]
    weights = kept / divisors[:, None]
    return AxisTaps(indices.astype(np.int32), weights.astype(np.float32))


def antialiased(
    size: int, outputs: int, factor: float | None, *, align_corners: bool, degree: int
) -> AxisTaps:
    """Return interpolation of a degree, 1 or 3, whose kernel is as wide as what it shrinks."""
    scale = _scale(size, outputs, factor)
    if align_corners:
        scale = np.float32((size - 1) / (outputs - 1)) if outputs > 1 else np.float32(0)
    half = np.float32((degree + 1) / 2)
    support = half * scale if scale >= 1 else half
    centres = scale * (np.arange(outputs, dtype=np.float32) + np.float32(0.5))
    begins = np.maximum((centres - support + np.float32(0.5)).astype(np.int32), 0)
    ends = np.minimum((centres + support + np.float32(0.5)).astype(np.int32), size)
    ends = np.maximum(ends, begins + 1)
    taps = boxes(begins, ends, np.ones(outputs, np.int32))
    inverse = np.float32(1) / scale if scale >= 1 else np.float32(1)
    offsets = np.abs((taps.indices - centres[:, None] + np.float32(0.5)) * inverse)
    kernel = np.maximum(1 - offsets, 0) if degree == 1 else _cubic_kernel(offsets, np.float32(-0.5))
    weights = kernel * taps.weights
    return AxisTaps(taps.indices, (weights / weights.sum(1, keepdims=True)).astype(np.float32))


def _cubic_kernel(x: FloatArray, a: np.float32) -> FloatArray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, np.float32(0)))


def _scale(size: int, outputs: int, factor: float | None) -> np.float32:
    """Return the inputs per output."""
    return np.float32(1 / factor) if factor else np.float32(size) / np.float32(outputs)


def _positions(size: int, outputs: int, factor: float | None, *, align_corners: bool) -> FloatArray:
    """Return where outputs lie among the inputs."""
    outs = np.arange(outputs, dtype=np.float32)
    if align_corners:
        scale = np.float32(size - 1) / np.float32(outputs - 1) if outputs > 1 else np.float32(0)
        return outs * scale
    return _scale(size, outputs, factor) * (outs + np.float32(0.5)) - np.float32(0.5)
