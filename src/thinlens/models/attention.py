"""How does a network look at the surroundings of a pixel at a low price? (ESA)

The enhanced spatial attention of RFDN (Liu, Tang, Wu, ECCV workshops 2020) and its shorter form in
RLFN (Kong et al., CVPR workshops 2022), which FMP's ESRB takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.models.layers import conv, pad_to_minimum
from thinlens.models.tile_position import LowMap

SMALLEST_INPUT = 15
"""Below this the strided convolution and the 7x7 pooling of the attention leave no pixel."""

ATTENTION_STRIDE = 6
"""Of the strided convolution (2) and the pooling (3) together."""

LOW = LowMap(ATTENTION_STRIDE, lambda side: (side - SMALLEST_INPUT) // ATTENTION_STRIDE + 1)
"""Where the attention looks: each of its samples sees 15 pixels."""


def enlarged(
    image: Tensor, scale: int, input_range: float, enlarge: Callable[[Tensor], Tensor]
) -> Tensor:
    """Enlarge `[B, C, H, W]` of any H and W by a network with this attention.

    Small images are edge-padded to `SMALLEST_INPUT` and cropped again; `enlarge` sees images times
    `input_range`.
    """
    height, width = image.shape[-2:]
    large = enlarge(pad_to_minimum(image, SMALLEST_INPUT) * input_range) / input_range
    return large[..., : height * scale, : width * scale]


class SpatialAttention(nn.Module):
    """ESA: a gate in (0, 1) per pixel and channel, computed at about 1/6 of the resolution.

    `low` names the 3x3 convolutions that run there, with a ReLU between two of them.
    """

    def __init__(self, channels: int, width: int, low: Sequence[str]) -> None:
        super().__init__()
        self._low = tuple(low)
        self.conv1 = conv(channels, width, 1)
        self.conv_f = conv(width, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2)
        for name in self._low:
            self.add_module(name, conv(width, width, 3))
        self.conv4 = conv(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        full = self.conv1(x)
        low = F.max_pool2d(self.conv2(full), kernel_size=7, stride=3)
        for index, name in enumerate(self._low):
            low = self.get_submodule(name)(F.relu(low) if index else low)
        height, width = x.shape[-2:]
        gate: Tensor = self.conv4(LOW.resized(low, (height, width)) + self.conv_f(full))
        return x * torch.sigmoid(gate)
