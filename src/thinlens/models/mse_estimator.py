"""The estimator that tells how well each of several networks would restore a tile (SLS, 3.6).

SLS prints its size alone (section S4): 0.15 M parameters, 3.45 GMACs for a 1280x720 image. This
stack has both, as a few others of a million have. It answers logarithms because errors of tiles
span four decades, and because equation 8 asks for ratios above 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from thinlens.models.layers import MID_GREY, Colours, check_positive, conv
from thinlens.models.network import Network

KERNELS = (3, 3, 3, 3, 3, 1)
STRIDES = (1, 2, 1, 2, 1)
"""Of the convolutions after the first."""


@dataclass(frozen=True)
class Config:
    """Which estimator."""

    width: int = 64
    """Channels of every convolution."""
    channels: int = 3
    """Image channels: 1 (grey) or 3 (RGB)."""
    candidates: int = 1
    """Networks whose errors it tells, the dearest first."""
    stem: int = 4
    """Stride of the first convolution. At 4 the low resolution of an HD image at x4 costs 0.22
    GMACs; at 1, the other reading of the paper's figure, it costs 3.45."""

    def __post_init__(self) -> None:
        check_positive(
            width=self.width, channels=self.channels, candidates=self.candidates, stem=self.stem
        )


class MSEEstimator(nn.Module):
    """Judge tiles `[B, C, H, W]` in [0, 1]: log10 of the MSE of every candidate, `[B, n]`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.colours = Colours(1.0, MID_GREY[: config.channels])
        widths = (config.channels, *[config.width] * len(KERNELS))
        layers: list[nn.Module] = []
        for (c_in, c_out), kernel, stride in zip(
            pairwise(widths), KERNELS, (config.stem, *STRIDES), strict=True
        ):
            layers += [conv(c_in, c_out, kernel, stride), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.judge = nn.Linear(config.width, config.candidates)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                # torch's own halves the signal at each layer: there are no norms to mend that
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, tile: Tensor) -> Tensor:
        errors: Tensor = self.judge(self.features(self.colours.centre(tile)).mean((2, 3)))
        return errors


NETWORKS = {
    "mse-estimator": Network(
        MSEEstimator, Config(), "deblur", tiny={"width": 8}, answers="log errors"
    ),
}
