"""Enhanced spatial attention (ESA): a gate per pixel, computed at about 1/6 of the resolution.

That of RFDN (Liu, Tang, Wu, ECCV workshops 2020) and its shorter form in
RLFN (Kong et al., CVPR workshops 2022), which FMP's ESRB takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.models.layers import conv, pad_to_minimum
from thinlens.models.tile_position import GlobalResize

SMALLEST_INPUT = 15
"""Pixels along a side that the strided convolution and the 7x7 pooling need for one output."""

ATTENTION_STRIDE = 6
"""Stride of the convolution (2) times that of the pooling (3)."""

ATTENTION_RESIZE = GlobalResize(
    ATTENTION_STRIDE, lambda size: (size - SMALLEST_INPUT) // ATTENTION_STRIDE + 1
)
"""Resizes the attention map, each sample of which has a receptive field of 15 pixels."""


def enlarge_padded(
    image: Tensor, scale: int, input_range: float, enlarge: Callable[[Tensor], Tensor]
) -> Tensor:
    """Enlarge `[B, C, H, W]` of any H and W by a network with this attention.

    Small images are edge-padded to `SMALLEST_INPUT` and the result is cropped; `enlarge` is called
    with images times `input_range`.
    """
    height, width = image.shape[-2:]
    large = enlarge(pad_to_minimum(image, SMALLEST_INPUT) * input_range) / input_range
    return large[..., : height * scale, : width * scale]


class SpatialAttention(nn.Module):
    """ESA: a gate in (0, 1) per pixel and channel, computed at 1/6 of the resolution.

    `low_convs` names the 3x3 convolutions at that resolution; between two of them is a ReLU.
    """

    def __init__(self, channels: int, width: int, low_convs: Sequence[str]) -> None:
        super().__init__()
        self._low_convs = tuple(low_convs)
        self.conv1 = conv(channels, width, 1)
        self.conv_f = conv(width, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2)
        for name in self._low_convs:
            self.add_module(name, conv(width, width, 3))
        self.conv4 = conv(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        full = self.conv1(x)
        low = F.max_pool2d(self.conv2(full), kernel_size=7, stride=3)
        for index, name in enumerate(self._low_convs):
            low = self.get_submodule(name)(F.relu(low) if index else low)
        height, width = x.shape[-2:]
        gate: Tensor = self.conv4(ATTENTION_RESIZE.resize(low, (height, width)) + self.conv_f(full))
        return x * torch.sigmoid(gate)
