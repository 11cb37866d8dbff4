"""ESRB: the efficient super-resolution baseline that FMP prunes (FMP, supplement, section 2.1).

The supplement prints the six blocks of 256 channels, the parameters and the FLOPs of x2, x3 and x4;
the layers are reconstructed: of all layouts tried, only this one has those numbers. They do not
depend on the position of a block's identity and on its activation: both are RLFN's (Kong et al.,
CVPR workshops 2022), whose attention the numbers show.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from thinlens.models.attention import SpatialAttention, enlarge_padded
from thinlens.models.entry import ModelEntry
from thinlens.models.layers import (
    check_positive,
    check_scale,
    conv,
    upsampler_tail,
)
from thinlens.models.shape_options import ShapeOptions

_SLOPE = 0.05
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
    """Factor from images in [0, 1] to the network's input range."""

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
        self.act = nn.LeakyReLU(_SLOPE)
        self.esa = SpatialAttention(channels, attention_width, ("conv3",))

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv2(self.act(self.conv1(x)))) + x
        gated: Tensor = self.esa(self.conv3(y))
        return gated


class ESRB(nn.Module):
    """Enlarge an RGB image `[B, 3, H, W]` in [0, 1] to `[B, 3, scale H, scale W]`.

    Any H and W: images under 15 pixels are edge-padded for the attention, the result is cropped.
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
        return enlarge_padded(image, self.config.scale, self.config.input_range, self._enlarge)

    def _enlarge(self, image: Tensor) -> Tensor:
        features = self.head(image)
        large: Tensor = self.tail(features + self.body(features))
        return large


_DETECT = ShapeOptions(
    {"width": ("head.weight", 0), "attention_width": ("body.0.esa.conv1.weight", 0)},
    {"blocks": r"body\.(\d+)\.esa"},
)

NETWORKS = {
    "esrb-6-256": ModelEntry(
        ESRB,
        Config(),
        "sr",
        tiny={"width": 8, "attention_width": 4, "blocks": 2},
        widths=("width", "attention_width"),
        detect=_DETECT,
    )
}
