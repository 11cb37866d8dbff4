"""UNet: the residual U-shaped network for deblurring that SLS prunes (Oh et al., CVPR 2022).

SLS publishes no code of it: widths, kernels, strides and blocks follow from the multiply-adds and
parameters of its Table 1. What no count sees is ours: encoder features are added to the decoder's
at equal resolution, and the network predicts what is to be added to its input.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from thinlens.models.layers import (
    MID_GREY,
    Colours,
    check_positive,
    conv,
    doubler,
    pad_to_multiple,
    residual_blocks,
)
from thinlens.models.network import Network

SIDE = 4
"""Height and width are halved twice."""


@dataclass(frozen=True)
class Config:
    """Which UNet."""

    width: int = 64
    """Channels at full resolution; twice as many at 1/2 and three times at 1/4."""
    blocks: int = 8
    """Residual blocks at 1/4 of the resolution."""
    input_range: float = 255.0
    """The network sees images times this, less mid-grey."""

    def __post_init__(self) -> None:
        check_positive(width=self.width, blocks=self.blocks, input_range=self.input_range)


class UNet(nn.Module):
    """Sharpen a blurry RGB image `[B, 3, H, W]` in [0, 1]; any H and W."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        full, half, quarter = (times * config.width for times in (1, 2, 3))
        self.colours = Colours(config.input_range, MID_GREY)
        self.head = conv(3, full, 3)
        self.down1 = conv(full, half, 3, stride=2)
        self.down2 = conv(half, quarter, 3, stride=2)
        self.body = nn.Sequential(*residual_blocks(quarter, config.blocks))
        self.up2 = doubler(quarter, half)
        self.up1 = doubler(half, full)
        self.tail = conv(full, 3, 3)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        blurry = self.colours.centre(pad_to_multiple(image, SIDE))
        full = self.head(blurry)
        half = self.down1(full)
        half = self.up2(self.body(self.down2(half))) + half
        full = self.up1(half) + full
        return self.colours.restore(self.tail(full) + blurry)[..., :height, :width]


NETWORKS = {"unet": Network(UNet, Config(), "deblur", tiny={"width": 4, "blocks": 2})}
