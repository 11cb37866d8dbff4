"""Estimator of the error with which each of several networks restores a tile (SLS, section 3.6).

SLS prints its size alone (section S4 of the appendix): 0.15 M parameters, 3.45 GMACs for a 1280x720
image. This stack has both, as have a few others of a million that were tried. It estimates
logarithms because errors of tiles span four decades, and because equation 8 needs ratios above 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from thinlens.models.entry import ModelEntry
from thinlens.models.layers import MID_GREY, ColourShift, check_positive, conv
from thinlens.models.shape_options import ShapeOptions

_KERNELS = (3, 3, 3, 3, 3, 1)
_STRIDES = (1, 2, 1, 2, 1)
"""Strides of the convolutions after the first."""

_HEAD = "judge"
"""Name of the linear layer in checkpoints: part of their format."""


@dataclass(frozen=True)
class Config:
    """Which estimator."""

    width: int = 64
    """Channels of every convolution."""
    channels: int = 3
    """Image channels: 1 (grey) or 3 (RGB)."""
    candidates: int = 1
    """Networks whose errors it estimates, the most expensive first."""
    stem: int = 4
    """Stride of the first convolution. At 4 the low resolution of an HD image at x4 costs 0.22
    GMACs; at 1, the other interpretation of the paper's figure, 3.45."""

    def __post_init__(self) -> None:
        check_positive(
            width=self.width, channels=self.channels, candidates=self.candidates, stem=self.stem
        )


class MSEEstimator(nn.Module):
    """Estimate log10 of the MSE of every candidate, `[B, n]`, for tiles `[B, C, H, W]`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.colours = ColourShift(1.0, MID_GREY[: config.channels])
        widths = (config.channels, *[config.width] * len(_KERNELS))
        layers: list[nn.Module] = []
        for (c_in, c_out), kernel, stride in zip(
            pairwise(widths), _KERNELS, (config.stem, *_STRIDES), strict=True
        ):
            layers += [conv(c_in, c_out, kernel, stride), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.add_module(_HEAD, nn.Linear(config.width, config.candidates))
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                # torch's default halves the signal at each layer, and there are no norms
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, tile: Tensor) -> Tensor:
        features = self.features(self.colours.centre(tile)).mean((2, 3))
        errors: Tensor = self.get_submodule(_HEAD)(features)
        return errors


_DETECT = ShapeOptions(
    {
        "width": ("features.0.weight", 0),
        "channels": ("features.0.weight", 1),
        "candidates": (f"{_HEAD}.weight", 0),
    }
)

NETWORKS = {
    "mse-estimator": ModelEntry(
        MSEEstimator,
        Config(),
        "deblur",
        tiny={"width": 8},
        output_kind="log errors",
        detect=_DETECT,
    ),
}
