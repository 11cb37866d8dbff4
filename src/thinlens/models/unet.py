"""UNet: the residual U-shaped network for deblurring that SLS prunes (Oh et al., CVPR 2022).

SLS publishes no code of it: widths, kernels, strides and blocks follow from the multiply-adds and
parameters of its Table 1. Choices on which no count depends are ours: encoder features are added to
the decoder's at equal resolution, and the network predicts a residual of its input.
"""

from __future__ import annotations

from dataclasses import dataclass

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
)
from thinlens.models.shape_options import ShapeOptions

_SIZE_MULTIPLE = 4
"""Heights and widths are padded to a multiple of this, as they are halved twice."""


@dataclass(frozen=True)
class Config:
    """Which UNet."""

    width: int = 64
    """Channels at full resolution; twice as many at 1/2 and three times at 1/4."""
    blocks: int = 8
    """Residual blocks at 1/4 of the resolution."""
    input_range: float = 255.0
    """Factor from images in [0, 1], less mid-grey, to the network's input range."""

    def __post_init__(self) -> None:
        check_positive(width=self.width, blocks=self.blocks, input_range=self.input_range)


class UNet(nn.Module):
    """Sharpen a blurry RGB image `[B, 3, H, W]` in [0, 1]; any H and W."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        full, half, quarter = (times * config.width for times in (1, 2, 3))
        self.colours = ColourShift(config.input_range, MID_GREY)
        self.head = conv(3, full, 3)
        self.down1 = conv(full, half, 3, stride=2)
        self.down2 = conv(half, quarter, 3, stride=2)
        self.body = nn.Sequential(*residual_blocks(quarter, config.blocks))
        self.up2 = double_resolution(quarter, half)
        self.up1 = double_resolution(half, full)
        self.tail = conv(full, 3, 3)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        blurry = self.colours.centre(pad_to_multiple(image, _SIZE_MULTIPLE))
        full = self.head(blurry)
        half = self.down1(full)
        half = self.up2(self.body(self.down2(half))) + half
        full = self.up1(half) + full
        return self.colours.restore(self.tail(full) + blurry)[..., :height, :width]


_DETECT = ShapeOptions({"width": ("head.weight", 0)}, {"blocks": r"body\.(\d+)\.body"})

NETWORKS = {
    "unet": ModelEntry(UNet, Config(), "deblur", tiny={"width": 4, "blocks": 2}, detect=_DETECT)
}
