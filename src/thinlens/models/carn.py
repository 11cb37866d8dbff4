"""CARN: a cascading residual network for super-resolution (Ahn et al., ECCV 2018).

The variant that SLS prunes: one scale, no groups, and a ReLU after each pixel shuffle instead of
before it. At every level of the cascade, all earlier outputs are joined and fused by a 1x1
convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.models.entry import ModelEntry
from thinlens.models.layers import ColourShift, check_positive, check_scale, conv, upsampler
from thinlens.models.shape_options import ShapeOptions

CASCADE_UNITS = 3
"""Units in a cascade, and cascades in the network."""


@dataclass(frozen=True)
class Config:
    """Which CARN."""

    scale: int = 4
    width: int = 64
    input_range: float = 255.0
    """Factor from images in [0, 1], less DIV2K's mean, to the network's input range."""

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_positive(width=self.width, input_range=self.input_range)


class ActivatedResidualBlock(nn.Module):
    """Two convolutions around a ReLU, added to the input, then a ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels, 3), nn.ReLU(), conv(channels, channels, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x)


class Cascade(nn.Module):
    """Three units; the input of each is a 1x1 convolution of all outputs before it."""

    def __init__(self, channels: int, unit: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.units = nn.ModuleList(unit(channels) for _ in range(CASCADE_UNITS))
        self.fusions = nn.ModuleList(
            nn.Sequential(conv((count + 1) * channels, channels, 1), nn.ReLU())
            for count in range(1, CASCADE_UNITS + 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs = x
        for unit, fusion in zip(self.units, self.fusions, strict=True):
            outputs = torch.cat([outputs, unit(x)], dim=1)
            x = fusion(outputs)
        return x


class CARN(nn.Module):
    """Enlarge an RGB image `[B, 3, H, W]` in [0, 1] to `[B, 3, scale H, scale W]`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.colours = ColourShift(config.input_range)
        self.entry = conv(3, width, 3)
        self.body = Cascade(width, lambda channels: Cascade(channels, ActivatedResidualBlock))
        self.upsampler = upsampler(width, config.scale, activated=True)
        self.exit = conv(width, 3, 3)

    def forward(self, image: Tensor) -> Tensor:
        features = self.body(self.entry(self.colours.centre(image)))
        return self.colours.restore(self.exit(self.upsampler(features)))


_DETECT = ShapeOptions({"width": ("entry.weight", 0)})

NETWORKS = {"carn": ModelEntry(CARN, Config(), "sr", tiny={"width": 8}, detect=_DETECT)}
