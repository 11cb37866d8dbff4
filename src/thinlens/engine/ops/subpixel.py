"""Sub-pixel kernels: one convolution in place of a convolution and a change of resolution.

A convolution to factor^2 times the channels, followed by a pixel shuffle, computes what a
transposed convolution or a convolution of a nearest-neighbour upsampling does; one with a stride
computes what a convolution of a pixel unshuffle does. Taps that no output needs are zeros, which
the sparse kernel skips, and the dense one where all channels of a block have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from thinlens.engine.graph import FloatArray

AxisPair = tuple[int, int]
"""A value along rows, and one along columns."""


def pair(value: int | Sequence[int]) -> AxisPair:
    """Return a value for rows and one for columns; a number stands for both.

    >>> pair(2), pair([1, 3])
    ((2, 2), (1, 3))
    """
    if isinstance(value, int):
        return value, value
    rows, columns = value
    return rows, columns


class Tap(NamedTuple):
    """One weight along an axis, for one of the `factor` outputs of a position."""

    phase: int
    """Which of the outputs, 0 to factor - 1."""
    position: int
    """Of the weight in the kernel that is replaced."""
    offset: int
    """Of the input that it multiplies, from the output's position."""


def transposed_taps(size: int, factor: int, padding: int, dilation: int) -> list[Tap]:
    """List the taps of a transposed convolution of stride `factor` along an axis.

    Output `factor q + phase` reads input `q + offset` where `factor offset = phase + padding -
    dilation index`.

    >>> transposed_taps(size=2, factor=2, padding=0, dilation=1)
    [Tap(phase=0, position=0, offset=0), Tap(phase=1, position=1, offset=0)]
    """
    return [
        Tap(phase, index, (phase + padding - dilation * index) // factor)
        for phase in range(factor)
        for index in range(size)
        if (phase + padding - dilation * index) % factor == 0
    ]


def nearest_taps(size: int, factor: int, padding: int, dilation: int) -> list[Tap]:
    """List the taps of a convolution of a nearest-neighbour upsampling along an axis.

    Zero padding agrees: a position outside the upsampling is of an input outside the image.

    >>> [(tap.phase, tap.offset) for tap in nearest_taps(3, factor=2, padding=1, dilation=1)]
    [(0, -1), (0, 0), (0, 0), (1, 0), (1, 0), (1, 1)]
    """
    return [
        Tap(phase, index, (phase - padding + dilation * index) // factor)
        for phase in range(factor)
        for index in range(size)
    ]


def subpixel_kernel(
    weight: FloatArray, rows: Sequence[Tap], columns: Sequence[Tap], factor: int
) -> tuple[FloatArray, AxisPair]:
    """Return weights `[c_out factor^2, c_in, kh, kw]` and the padding above and left.

    `weight` is `[c_out, c_in, kh, kw]`; weights that multiply the same input are added up.
    """
    c_out, c_in = weight.shape[:2]
    (top, height), (left, width) = (_extent(taps) for taps in (rows, columns))
    kernel = np.zeros((c_out, factor, factor, c_in, height, width))
    for row in rows:
        for column in columns:
            added = weight[:, :, row.position, column.position]
            kernel[:, row.phase, column.phase, :, row.offset - top, column.offset - left] += added
    shape = (c_out * factor**2, c_in, height, width)
    return kernel.reshape(shape).astype(np.float32), (-top, -left)


def _extent(taps: Sequence[Tap]) -> AxisPair:
    """Return the first offset and the number of them."""
    offsets = [tap.offset for tap in taps]
    return min(offsets), max(offsets) - min(offsets) + 1


def unshuffled_kernel(weight: FloatArray, factor: int) -> FloatArray:
    """Return weights of stride `factor` that convolve an image as `weight` does its unshuffling.

    `[c_out, c_in factor^2, kh, kw]` becomes `[c_out, c_in, kh factor, kw factor]`.
    """
    c_out, c_in, height, width = weight.shape
    split = weight.reshape(c_out, c_in // factor**2, factor, factor, height, width)
    joined = split.transpose(0, 1, 4, 2, 5, 3)
    shape = (c_out, c_in // factor**2, height * factor, width * factor)
    return np.ascontiguousarray(joined).reshape(shape)


def unshuffling_kernel(channels: int, factor: int) -> FloatArray:
    """Return the weights, in `channels` groups, of a pixel unshuffle: one 1 each."""
    eye = np.eye(factor**2, dtype=np.float32).reshape(factor**2, 1, factor, factor)
    return np.tile(eye, (channels, 1, 1, 1))
