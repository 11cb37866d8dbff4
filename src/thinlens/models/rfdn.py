"""RFDN: the residual feature distillation network for super-resolution, in two widths.

`rfdn` is the variant that SLS prunes (64 channels, attention width 32), `rfdn-aim` the winner of
the AIM 2020 efficient super-resolution challenge (50 channels, attention width 12), whose
published weights load into it. Source: Liu, Tang, Wu, ECCV workshops 2020; SLS, Table 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
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
"""Slope of every LeakyReLU."""

_SMALLEST_WIDTH = 2


@dataclass(frozen=True)
class Config:
    """Which RFDN."""

    scale: int = 4
    width: int = 64
    """Channels of the trunk."""
    attention_width: int = 32
    """Channels inside the spatial attention: half of the width in SLS, a quarter in the released
    RFDN."""
    blocks: int = 4
    input_range: float = 1.0
    """Factor from images in [0, 1] to the network's input range: 255 for the released weights."""

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_positive(
            attention_width=self.attention_width, blocks=self.blocks, input_range=self.input_range
        )
        if self.width < _SMALLEST_WIDTH:
            raise UsageError(
                f"width {self.width}: wanted at least {_SMALLEST_WIDTH}, as RFDN distils half of it"
            )


class DistillationBlock(nn.Module):
    """RFDB: three shallow residual blocks, each with a branch of half the width, then ESA."""

    def __init__(self, channels: int, attention_width: int) -> None:
        super().__init__()
        distilled = channels // 2
        self.c1_d = conv(channels, distilled, 1)
        self.c1_r = conv(channels, channels, 3)
        self.c2_d = conv(channels, distilled, 1)
        self.c2_r = conv(channels, channels, 3)
        self.c3_d = conv(channels, distilled, 1)
        self.c3_r = conv(channels, channels, 3)
        self.c4 = conv(channels, distilled, 3)
        self.act = nn.LeakyReLU(_SLOPE)
        self.c5 = conv(4 * distilled, channels, 1)
        self.esa = SpatialAttention(channels, attention_width, ("conv_max", "conv3", "conv3_"))

    def forward(self, x: Tensor) -> Tensor:
        distilled1, x = self.act(self.c1_d(x)), self.act(self.c1_r(x) + x)
        distilled2, x = self.act(self.c2_d(x)), self.act(self.c2_r(x) + x)
        distilled3, x = self.act(self.c3_d(x)), self.act(self.c3_r(x) + x)
        distilled4 = self.act(self.c4(x))
        y = self.c5(torch.cat([distilled1, distilled2, distilled3, distilled4], dim=1))
        gated: Tensor = self.esa(y)
        return gated


class RFDN(nn.Module):
    """Enlarge an RGB image `[B, 3, H, W]` in [0, 1] to `[B, 3, scale H, scale W]`.

    Any H and W: images under 15 pixels are edge-padded for the attention, the result is cropped.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.fea_conv = conv(3, width, 3)
        for index in range(1, config.blocks + 1):
            self.add_module(f"B{index}", DistillationBlock(width, config.attention_width))
        self.c = nn.Sequential(conv(config.blocks * width, width, 1), nn.LeakyReLU(_SLOPE))
        self.LR_conv = conv(width, width, 3)
        self.upsampler = upsampler_tail(width, config.scale)

    def forward(self, image: Tensor) -> Tensor:
        return enlarge_padded(image, self.config.scale, self.config.input_range, self._enlarge)

    def _enlarge(self, image: Tensor) -> Tensor:
        features = self.fea_conv(image)
        x, outputs = features, []
        for index in range(1, self.config.blocks + 1):
            x = self.get_submodule(f"B{index}")(x)
            outputs.append(x)
        fused = self.LR_conv(self.c(torch.cat(outputs, dim=1))) + features
        large: Tensor = self.upsampler(fused)
        return large


TINY = {"width": 8, "attention_width": 4, "blocks": 2}
WIDTHS = ("width", "attention_width")

_DETECT = ShapeOptions(
    {"width": ("fea_conv.weight", 0), "attention_width": ("B1.esa.conv1.weight", 0)},
    {"blocks": r"B(\d+)\."},
)

NETWORKS = {
    "rfdn": ModelEntry(RFDN, Config(), "sr", tiny=TINY, widths=WIDTHS, detect=_DETECT),
    "rfdn-aim": ModelEntry(
        RFDN,
        Config(width=50, attention_width=12, input_range=255.0),
        "sr",
        tiny=TINY,
        widths=WIDTHS,
        detect=_DETECT,
    ),
}
