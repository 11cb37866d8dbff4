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

from thinlens.models.layers import (
    MID_GREY,
    Colours,
    check_positive,
    conv,
    doubler,
    pad_to_multiple,
    residual_blocks,
    resized,
)
from thinlens.models.network import Network

KERNEL = 5

REDUCTIONS = (4, 2, 1)
"""Of height and width, pass by pass."""

SIDE = 16
"""A pass at 1/4 halves height and width twice more."""


@dataclass(frozen=True)
class Config:
    """Which SRN."""

    width: int = 32
    """Channels at a pass's full resolution; doubled with every halving."""
    blocks: int = 3
    """Residual blocks in each of the six stages of a pass."""
    input_range: float = 255.0
    """The network sees images times this, less mid-grey."""

    def __post_init__(self) -> None:
        check_positive(width=self.width, blocks=self.blocks, input_range=self.input_range)


class SRN(nn.Module):
    """Sharpen a blurry RGB image `[B, 3, H, W]` in [0, 1]; any H and W.

    A pass sees the blurry image and the result of the pass before, enlarged; the first sees the
    blurry image twice. Only the last result is returned and trained, so gradients flow through all
    passes; the original, which is trained on every result, stops them in between.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        c, blocks = config.width, partial(residual_blocks, count=config.blocks, kernel=KERNEL)
        self.colours = Colours(config.input_range, MID_GREY)
        self.encoder1 = nn.Sequential(conv(6, c, KERNEL), nn.ReLU(), *blocks(c))
        self.encoder2 = nn.Sequential(conv(c, 2 * c, KERNEL, 2), nn.ReLU(), *blocks(2 * c))
        self.encoder3 = nn.Sequential(conv(2 * c, 4 * c, KERNEL, 2), nn.ReLU(), *blocks(4 * c))
        self.decoder3 = nn.Sequential(*blocks(4 * c), doubler(4 * c, 2 * c), nn.ReLU())
        self.decoder2 = nn.Sequential(*blocks(2 * c), doubler(2 * c, c), nn.ReLU())
        self.decoder1 = nn.Sequential(*blocks(c), conv(c, 3, KERNEL))

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        blurry = self.colours.centre(pad_to_multiple(image, SIDE))
        sharp = blurry
        for reduction in REDUCTIONS:
            size = (blurry.shape[-2] // reduction, blurry.shape[-1] // reduction)
            sharp = self._one_pass(torch.cat([resized(blurry, size), resized(sharp, size)], 1))
        return self.colours.restore(sharp)[..., :height, :width]

    def _one_pass(self, pair: Tensor) -> Tensor:
        full = self.encoder1(pair)
        half = self.encoder2(full)
        half = self.decoder3(self.encoder3(half)) + half
        sharp: Tensor = self.decoder1(self.decoder2(half) + full)
        return sharp


NETWORKS = {"srn": Network(SRN, Config(), "deblur", tiny={"width": 2, "blocks": 1})}
