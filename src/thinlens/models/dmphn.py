"""DMPHN: a cascade of encoders and decoders for deblurring (Zhang et al., CVPR 2019).

The variant that SLS prunes: the four levels of DMPHN(1-2-4-8), each with its own weights, on the
whole image instead of on 1, 2, 4 and 8 patches, and 3x3 convolutions with pixel shuffles in place
of transposed convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from thinlens.models.entry import ModelEntry, StateDict
from thinlens.models.layers import (
    MID_GREY,
    ColourShift,
    check_positive,
    conv,
    double_resolution,
    pad_to_multiple,
    residual_blocks,
)
from thinlens.models.shape_options import ShapeOptions

_SIZE_MULTIPLE = 4
"""Heights and widths are padded to a multiple of this, as they are halved twice."""


@dataclass(frozen=True)
class Config:
    """Which DMPHN."""

    width: int = 32
    """Channels at full resolution; doubled with every halving."""
    blocks: int = 2
    """Residual blocks in each of the six stages of a level."""
    levels: int = 4
    input_range: float = 255.0
    """Factor from images in [0, 1], less mid-grey, to the network's input range."""

    def __post_init__(self) -> None:
        check_positive(
            width=self.width, blocks=self.blocks, levels=self.levels, input_range=self.input_range
        )


class DMPHN(nn.Module):
    """Sharpen a blurry RGB image `[B, 3, H, W]` in [0, 1]; any H and W.

    The input of the lowest level is the image; that of every level above is the image plus the
    result of the level below, whose features it adds to its own.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.colours = ColourShift(config.input_range, MID_GREY)
        levels = range(config.levels)
        self.encoders = nn.ModuleList(_encoder(config.width, config.blocks) for _ in levels)
        self.decoders = nn.ModuleList(_decoder(config.width, config.blocks) for _ in levels)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        blurry = self.colours.centre(pad_to_multiple(image, _SIZE_MULTIPLE))
        features = self.encoders[-1](blurry)
        sharp = self.decoders[-1](features)
        for level in reversed(range(self.config.levels - 1)):
            features = self.encoders[level](blurry + sharp) + features
            sharp = self.decoders[level](features)
        return self.colours.restore(sharp)[..., :height, :width]


def _encoder(c: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        *[conv(3, c, 3), *residual_blocks(c, blocks)],
        *[conv(c, 2 * c, 3, stride=2), *residual_blocks(2 * c, blocks)],
        *[conv(2 * c, 4 * c, 3, stride=2), *residual_blocks(4 * c, blocks)],
    )


def _decoder(c: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        *[*residual_blocks(4 * c, blocks), double_resolution(4 * c, 2 * c)],
        *[*residual_blocks(2 * c, blocks), double_resolution(2 * c, c)],
        *[*residual_blocks(c, blocks), conv(c, 3, 3)],
    )


_STAGES = 3
"""Stages of an encoder, each of so many residual blocks."""

_SHAPES = ShapeOptions(
    {"width": ("encoders.0.0.weight", 0)},
    {"levels": r"encoders\.(\d+)\.", "blocks": r"encoders\.0\.(\d+)\.body"},
)


def dmphn_options(state: StateDict) -> dict[str, int] | None:
    """Return the options that a state dict shows; None if it is no DMPHN's."""
    options = _SHAPES(state)
    return options and {**options, "blocks": options["blocks"] // _STAGES}


NETWORKS = {
    "dmphn": ModelEntry(
        DMPHN, Config(), "deblur", tiny={"width": 2, "blocks": 1, "levels": 2}, detect=dmphn_options
    )
}
