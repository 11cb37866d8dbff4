"""EDSR-baseline: a plain residual network for super-resolution (Lim et al., CVPRW 2017).

Sixteen residual blocks of 64 channels; parameter names are the official release's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from thinlens.models.layers import (
    Colours,
    ResidualBlock,
    check_positive,
    check_scale,
    conv,
    upsampler,
)
from thinlens.models.network import Network, State


@dataclass(frozen=True)
class Config:
    """Which EDSR."""

    scale: int = 4
    width: int = 64
    blocks: int = 16
    input_range: float = 255.0
    """The network sees images times this, less DIV2K's mean."""

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_positive(width=self.width, blocks=self.blocks, input_range=self.input_range)


class EDSR(nn.Module):
    """Enlarge an RGB image `[B, 3, H, W]` in [0, 1] to `[B, 3, scale H, scale W]`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.colours = Colours(config.input_range)
        self.head = nn.Sequential(conv(3, width, 3))
        blocks = [ResidualBlock(width) for _ in range(config.blocks)]
        self.body = nn.Sequential(*blocks, conv(width, width, 3))
        self.tail = nn.Sequential(
            upsampler(width, config.scale, activated=False), conv(width, 3, 3)
        )

    def forward(self, image: Tensor) -> Tensor:
        features = self.head(self.colours.centre(image))
        return self.colours.restore(self.tail(features + self.body(features)))


def adopt(state: State) -> State:
    """Leave the constant colour shifts of a published state dict behind."""
    shifts = ("sub_mean.", "add_mean.")
    return {name: tensor for name, tensor in state.items() if not name.startswith(shifts)}


TINY = {"width": 8, "blocks": 2}

NETWORKS = {
    "edsr": Network(EDSR, Config(), "sr", tiny=TINY, adopt=adopt),
    "edsr-8-128": Network(EDSR, Config(width=128, blocks=8), "sr", tiny=TINY, adopt=adopt),
}
"""The baseline that SLS prunes, and the one of FMP's Table 3."""
