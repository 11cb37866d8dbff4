"""Copies of channels, as convolutions of one weight per output: repeat, pick, upsample, shuffle.

They stream, and convolutions after some of them do their work too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from thinlens.engine.graph import Node, Size
from thinlens.engine.ops.conv import Conv, ConvParams
from thinlens.engine.ops.subpixel import (
    nearest_taps,
    subpixel_kernel,
    unshuffled_kernel,
    unshuffling_kernel,
)


@dataclass(eq=False, kw_only=True)
class ChannelCopy(Conv):
    """A convolution whose weights are 1, one for each output."""

    @property
    def is_copy(self) -> bool:
        """Whether nothing was fused into it that changes values."""
        params = self.params
        is_scaled = bool((params.weight.sum((1, 2, 3)) != 1).any() or params.bias.any())
        return not is_scaled and self.slope == 1.0 and len(self.inputs) == 1


@dataclass(eq=False, kw_only=True)
class NearestUpsampling(ChannelCopy):
    """Every pixel `shuffle x shuffle` times; folded into a convolution with a larger kernel."""

    def folded_into(self, reader: Conv, *, is_only_reader: bool) -> Conv | None:
        """Convolve at the low resolution to `shuffle^2` times the channels, and shuffle pixels.

        Of a 3x3 kernel and factor 2, 16 of 36 taps are left, for 4 outputs.
        """
        params, factor = reader.params, self.shuffle
        height, width = params.weight.shape[2:]
        whole = reader.size.height % factor == 0 and reader.size.width % factor == 0
        if not (is_only_reader and self.is_copy and whole and height * width > 1):
            return None
        if params.strides != (1, 1):
            return None
        rows, columns = (
            nearest_taps(side, factor, padding, dilation)
            for side, padding, dilation in zip(
                (height, width), params.paddings, params.dilations, strict=True
            )
        )
        weight, paddings = subpixel_kernel(params.weight, rows, columns, factor)
        low = replace(
            params,
            weight=weight,
            bias=np.repeat(params.bias, factor**2),
            padding=paddings,
            dilation=1,
        )
        return replace(reader, inputs=self.inputs, params=low, shuffle=factor)


@dataclass(eq=False, kw_only=True)
class PixelUnshuffling(ChannelCopy):
    """`inputs[0]` `[c, h r, w r]` as `[c r^2, h, w]`; a convolution after it has stride r."""

    factor: int

    def folded_into(self, reader: Conv, *, is_only_reader: bool) -> Conv | None:
        """Convolve the input itself, by a kernel and strides that are larger by the factor."""
        params, r = reader.params, self.factor
        if not self.is_copy or params.groups > 1 or params.dilations != (1, 1):
            return None
        padding, stride = ((r * y, r * x) for y, x in (params.paddings, params.strides))
        weight = unshuffled_kernel(params.weight, r)
        wide = replace(params, weight=weight, padding=padding, stride=stride)
        return replace(reader, inputs=self.inputs, params=wide)


def repeated_channels(x: Node, times: int) -> Conv:
    """Return a node with every channel of `x` `times` times, next to each other."""
    channels = x.size.channels
    size = replace(x.size, channels=channels * times)
    return ChannelCopy([x], size, params=_ones(channels, times))


def picked_channels(x: Node, channels: Sequence[int]) -> Conv:
    """Return a node with some channels of `x`, in any order and number."""
    times = len(channels) // x.size.channels
    if list(channels) == [channel for channel in range(x.size.channels) for _ in range(times)]:
        return repeated_channels(x, times)
    weight = np.zeros((len(channels), x.size.channels, 1, 1), np.float32)
    weight[np.arange(len(channels)), channels] = 1
    params = ConvParams(weight, np.zeros(len(channels), np.float32), 0, 1, 1)
    return ChannelCopy([x], replace(x.size, channels=len(channels)), params=params)


def nearest_upsampling(x: Node, factor: int) -> Conv:
    """Return a node with every pixel of `x` `factor x factor` times."""
    channels, height, width = x.size.channels, x.size.height * factor, x.size.width * factor
    params = _ones(channels, factor**2)
    size = Size(channels, height, width)
    return NearestUpsampling([x], size, params=params, shuffle=factor)


def shuffled_pixels(x: Node, factor: int) -> Conv:
    """Return a node that shuffles the pixels of `x`: `[c r^2, h, w]` as `[c, h r, w r]`."""
    channels, height, width = x.size.channels, x.size.height * factor, x.size.width * factor
    size = Size(channels // factor**2, height, width)
    return ChannelCopy([x], size, params=_ones(channels, 1), shuffle=factor)


def unshuffled_pixels(x: Node, factor: int) -> Conv:
    """Return a node that reverts a pixel shuffle: `[c, h r, w r]` as `[c r^2, h, w]`."""
    channels = x.size.channels
    size = Size(channels * factor**2, x.size.height // factor, x.size.width // factor)
    weight = unshuffling_kernel(channels, factor)
    bias = np.zeros(len(weight), np.float32)
    params = ConvParams(weight, bias, 0, factor, 1, groups=channels)
    return PixelUnshuffling([x], size, params=params, factor=factor)


def _ones(channels: int, times: int) -> ConvParams:
    """Return a group for each channel, whose outputs are that channel."""
    weight = np.ones((channels * times, 1, 1, 1), np.float32)
    return ConvParams(weight, np.zeros(len(weight), np.float32), 0, 1, 1, groups=channels)
