"""EDSR-baseline: a plain residual network for super-resolution (Lim et al., CVPRW 2017).

Sixteen residual blocks of 64 channels; parameter names are those of the official release.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from thinlens.models.entry import ModelEntry, StateDict
from thinlens.models.layers import (
    ColourShift,
    ResidualBlock,
    check_positive,
    check_scale,
    conv,
    upsampler,
)
from thinlens.models.shape_options import ShapeOptions


@dataclass(frozen=True)
class Config:
    """Which EDSR."""

    scale: int = 4
    width: int = 64
    blocks: int = 16
    input_range: float = 255.0
    """Factor from images in [0, 1], less DIV2K's mean, to the network's input range."""

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_positive(width=self.width, blocks=self.blocks, input_range=self.input_range)


class EDSR(nn.Module):
    """Enlarge an RGB image `[B, 3, H, W]` in [0, 1] to `[B, 3, scale H, scale W]`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.colours = ColourShift(config.input_range)
        self.head = nn.Sequential(conv(3, width, 3))
        blocks = [ResidualBlock(width) for _ in range(config.blocks)]
        self.body = nn.Sequential(*blocks, conv(width, width, 3))
        self.tail = nn.Sequential(
            upsampler(width, config.scale, activated=False), conv(width, 3, 3)
        )

    def forward(self, image: Tensor) -> Tensor:
        features = self.head(self.colours.centre(image))
        return self.colours.restore(self.tail(features + self.body(features)))


def drop_colour_shifts(state: StateDict) -> StateDict:
    """Drop the constant colour shifts of a published state dict."""
    shifts = ("sub_mean.", "add_mean.")
    return {name: tensor for name, tensor in state.items() if not name.startswith(shifts)}


TINY = {"width": 8, "blocks": 2}

_DETECT = ShapeOptions({"width": ("head.0.weight", 0)}, {"blocks": r"body\.(\d+)\.body\."})

NETWORKS = {
    name: ModelEntry(
        EDSR, config, "sr", tiny=TINY, convert_state=drop_colour_shifts, detect=_DETECT
    )
    for name, config in {"edsr": Config(), "edsr-8-128": Config(width=128, blocks=8)}.items()
}
"""The baseline that SLS prunes, and the one of FMP's Table 3."""
