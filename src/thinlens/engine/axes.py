"""Axes: how the dimensions of a traced tensor are made of an image's channels, rows and columns.

Views and permutations (tokens, windows, heads) only change them: the node stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from torch import Tensor

from thinlens.engine.graph import Size

CHANNELS, ROWS, COLUMNS = range(3)

MAX_AXES = 1024
"""Sizes whose axes are remembered."""


@dataclass(frozen=True)
class Factor:
    """A part of an image's axis: `size` positions, `stride` apart; a stride of 0 repeats one."""

    axis: int
    size: int
    stride: int


Dimension = tuple[Factor, ...]
"""Factors whose product a dimension is, the slowest first; none: a dimension of 1."""


@dataclass(frozen=True)
class Axes:
    """The dimensions of a tensor by the factors of an image's axes."""

    dimensions: tuple[Dimension, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(prod(factor.size for factor in dim) for dim in self.dimensions)

    def is_image(self, size: Size) -> bool:
        """Whether the tensor is `[1, C, H, W]`."""
        return self == image_axes(size)

    def reshaped(self, shape: Sequence[int]) -> Axes | None:
        """Return the axes of a view of another shape, or None where a factor cannot be cut."""
        rest = [factor for dim in self.dimensions for factor in dim]
        dimensions = []
        for side in shape:
            dimension: list[Factor] = []
            length = side
            while length > 1:
                if not rest:
                    return None
                factor = rest.pop(0)
                if length % factor.size:
                    if factor.size % length:
                        return None
                    inner = factor.size // length
                    rest.insert(0, Factor(factor.axis, inner, factor.stride))
                    factor = Factor(factor.axis, length, factor.stride * inner)
                dimension.append(factor)
                length //= factor.size
            dimensions.append(_merged(dimension))
        return None if rest else Axes(tuple(dimensions))

    def permuted(self, order: Sequence[int]) -> Axes:
        """Return the axes of a permutation of the dimensions."""
        return Axes(tuple(self.dimensions[index] for index in order))

    def expanded(self, shape: Sequence[int]) -> Axes:
        """Return the axes of an expansion: repetitions count as channels."""
        new = len(shape) - len(self.dimensions)
        dimensions: list[Dimension] = [()] * new + list(self.dimensions)
        for index, (length, before) in enumerate(
            zip(shape, [1] * new + list(self.shape), strict=True)
        ):
            if length not in (-1, before):
                dimensions[index] = (Factor(CHANNELS, length, 0),)
        return Axes(tuple(dimensions))

    def dimension_of(self, axis: int, size: Size) -> int | None:
        """Return the dimension that is the whole of an axis, or None."""
        whole = image_axes(size).dimensions[1 + axis]
        matches = [index for index, dim in enumerate(self.dimensions) if dim == whole]
        return matches[0] if whole and matches else None

    def channel_source(self, size: Size) -> list[int] | None:
        """Return, where the tensor is `[1, C', H, W]`, the channel that each of its channels is."""
        _, _, rows, columns = image_axes(size).dimensions
        if (
            len(self.dimensions) != 4
            or self.dimensions[0]
            or self.dimensions[2:] != (rows, columns)
        ):
            return None
        channels = [0]
        for factor in self.dimensions[1]:
            if factor.axis != CHANNELS:
                return None
            channels = [c + i * factor.stride for c in channels for i in range(factor.size)]
        return channels

    def with_channels(self, dimension: int, channels: int) -> Axes:
        """Return the axes of a tensor with other channels, which are a whole dimension."""
        dimensions = list(self.dimensions)
        dimensions[dimension] = _whole(CHANNELS, channels)
        return Axes(tuple(dimensions))

    def storage_order(self) -> tuple[int, int, int]:
        """Return the order of the axes in memory of which the tensor is a view most likely."""
        factors = [factor for dim in self.dimensions for factor in dim]
        last_is_channel = bool(factors) and factors[-1].axis == CHANNELS
        return (ROWS, COLUMNS, CHANNELS) if last_is_channel else (CHANNELS, ROWS, COLUMNS)

    def from_image(self, image: Tensor) -> Tensor:
        """Return the tensor from the image `[1, C, H, W]`: a view where the memory allows."""
        strides = image.stride()[1:]
        sizes, steps = [], []
        for dimension in self.dimensions:
            for factor in dimension:
                sizes.append(factor.size)
                steps.append(strides[factor.axis] * factor.stride)
        strided = image.as_strided(sizes, steps, image.storage_offset())
        return strided.reshape(self.shape)


@lru_cache(maxsize=MAX_AXES)
def image_axes(size: Size) -> Axes:
    """Return the axes of a tensor `[1, C, H, W]`."""
    sides = (size.channels, size.height, size.width)
    return Axes(((), *(_whole(axis, side) for axis, side in enumerate(sides))))


def to_image(tensor: Tensor, axes: Axes, size: Size) -> Tensor:
    """Return the image `[1, C, H, W]` of which `tensor` is a view with the axes: a view, too."""
    factors = [factor for dim in axes.dimensions for factor in dim]
    split = tensor.reshape([factor.size for factor in factors])
    order = sorted(range(len(factors)), key=lambda i: (factors[i].axis, -factors[i].stride))
    sides = (size.channels, size.height, size.width)
    return split.permute(order).reshape(1, *sides)


def _whole(axis: int, side: int) -> Dimension:
    return (Factor(axis, side, 1),) if side > 1 else ()


def _merged(factors: Sequence[Factor]) -> Dimension:
    """Merge neighbours that are one factor of their axis; a factor of 1 is none."""
    merged: list[Factor] = []
    for factor in factors:
        if factor.size == 1:
            continue
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.axis == factor.axis
            and last.stride == factor.stride * factor.size > 0
        ):
            merged[-1] = Factor(factor.axis, last.size * factor.size, factor.stride)
        else:
            merged.append(factor)
    return tuple(merged)
