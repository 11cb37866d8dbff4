"""ESRB: the efficient super-resolution baseline that FMP prunes (FMP, supplement, section 2.1).

Known are the six blocks of 256 channels, the parameters and the FLOPs of x2, x3 and x4; layer by
layer it is reconstructed, and of all layouts tried this one alone has those numbers. They cannot
see where a block's identity enters nor which activation it has: both are RLFN's here (Kong et
al., CVPR workshops 2022), whose attention the numbers do show.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from thinlens.models.attention import SpatialAttention, enlarged
from thinlens.models.layers import (
    check_positive,
    check_scale,
    conv,
    upsampler_tail,
)
from thinlens.models.network import Network

SLOPE = 0.05
"""Slope of every LeakyReLU, as RLFN's."""


@dataclass(frozen=True)
class Config:
    """Which ESRB: ESRB-n-c has n blocks of c channels."""

    scale: int = 4
    width: int = 256
    blocks: int = 6
    attention_width: int = 16
    """Channels inside the spatial attention."""
    input_range: float = 1.0
    """The network sees images times this."""

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_positive(
            width=self.width,
            blocks=self.blocks,
            attention_width=self.attention_width,
            input_range=self.input_range,
        )


class Block(nn.Module):
    """Two 3x3 convolutions, the identity, a 1x1 convolution and spatial attention."""

    def __init__(self, channels: int, attention_width: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, 3)
        self.conv2 = conv(channels, channels, 3)
        self.conv3 = conv(channels, channels, 1)
        self.act = nn.LeakyReLU(SLOPE)
        self.esa = SpatialAttention(channels, attention_width, ("conv3",))

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv2(self.act(self.conv1(x)))) + x
        gated: Tensor = self.esa(self.conv3(y))
        return gated


class ESRB(nn.Module):
    """Enlarge an RGB image `[B, 3, H, W]` in [0, 1] to `[B, 3, scale H, scale W]`.

    Any H and W: images under 15 pixels are edge-padded for the attention and cropped again.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.head = conv(3, width, 3)
        blocks = [Block(width, config.attention_width) for _ in range(config.blocks)]
        self.body = nn.Sequential(*blocks, conv(width, width, 3))
        self.tail = upsampler_tail(width, config.scale)

    def forward(self, image: Tensor) -> Tensor:
        return enlarged(image, self.config.scale, self.config.input_range, self._enlarge)

    def _enlarge(self, image: Tensor) -> Tensor:
        features = self.head(image)
        large: Tensor = self.tail(features + self.body(features))
        return large


NETWORKS = {
    "esrb-6-256": Network(
        ESRB,
        Config(),
        "sr",
        tiny={"width": 8, "attention_width": 4, "blocks": 2},
        widths=("width", "attention_width"),
    )
}
