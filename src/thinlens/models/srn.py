"""SRN: one network deblurs at 1/4, 1/2 and full resolution (Tao et al., CVPR 2018).

The variant that SLS prunes: colour, no recurrent state, and 3x3 convolutions with pixel shuffles
in place of transposed convolutions. The three passes share all weights, so a layer has one pattern
and costs the sum of its three calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from thinlens.models.entry import ModelEntry
from thinlens.models.layers import (
    MID_GREY,
    ColourShift,
    check_positive,
    conv,
    double_resolution,
    pad_to_multiple,
    residual_blocks,
    resize,
)
from thinlens.models.shape_options import ShapeOptions

_KERNEL = 5

_REDUCTIONS = (4, 2, 1)
"""Divisors of height and width, pass by pass."""

_SIZE_MULTIPLE = 16
"""Heights and widths are padded to a multiple of this: a pass at 1/4 halves them twice more."""


@dataclass(frozen=True)
class Config:
    """Which SRN."""

    width: int = 32
    """Channels at a pass's full resolution; doubled with every halving."""
    blocks: int = 3
    """Residual blocks in each of the six stages of a pass."""
    input_range: float = 255.0
    """Factor from images in [0, 1], less mid-grey, to the network's input range."""

    def __post_init__(self) -> None:
        check_positive(width=self.width, blocks=self.blocks, input_range=self.input_range)


class SRN(nn.Module):
    """Sharpen a blurry RGB image `[B, 3, H, W]` in [0, 1]; any H and W.

    The input of a pass is the blurry image and the enlarged result of the pass before; that of the
    first is the blurry image twice. Only the last result is returned and trained, so gradients flow
    through all passes; the original, which is trained on every result, stops them in between.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        c, blocks = config.width, partial(residual_blocks, count=config.blocks, kernel=_KERNEL)
        self.colours = ColourShift(config.input_range, MID_GREY)
        self.encoder1 = nn.Sequential(conv(6, c, _KERNEL), nn.ReLU(), *blocks(c))
        self.encoder2 = nn.Sequential(conv(c, 2 * c, _KERNEL, 2), nn.ReLU(), *blocks(2 * c))
        self.encoder3 = nn.Sequential(conv(2 * c, 4 * c, _KERNEL, 2), nn.ReLU(), *blocks(4 * c))
        self.decoder3 = nn.Sequential(*blocks(4 * c), double_resolution(4 * c, 2 * c), nn.ReLU())
        self.decoder2 = nn.Sequential(*blocks(2 * c), double_resolution(2 * c, c), nn.ReLU())
        self.decoder1 = nn.Sequential(*blocks(c), conv(c, 3, _KERNEL))

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        blurry = self.colours.centre(pad_to_multiple(image, _SIZE_MULTIPLE))
        sharp = blurry
        for reduction in _REDUCTIONS:
            size = (blurry.shape[-2] // reduction, blurry.shape[-1] // reduction)
            sharp = self._one_pass(torch.cat([resize(blurry, size), resize(sharp, size)], 1))
        return self.colours.restore(sharp)[..., :height, :width]

    def _one_pass(self, pair: Tensor) -> Tensor:
        full = self.encoder1(pair)
        half = self.encoder2(full)
        half = self.decoder3(self.encoder3(half)) + half
        sharp: Tensor = self.decoder1(self.decoder2(half) + full)
        return sharp


_DETECT = ShapeOptions({"width": ("encoder1.0.weight", 0)}, {"blocks": r"encoder1\.(\d+)\.body"})

NETWORKS = {
    "srn": ModelEntry(SRN, Config(), "deblur", tiny={"width": 2, "blocks": 1}, detect=_DETECT)
}
