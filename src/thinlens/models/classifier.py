"""Classifier of images by how hard they are to restore (ClassPruning, section 3.3).

The paper prints its four Conv-BN-ReLU blocks, the average pooling and the linear layer, but no
width; these widths reproduce every parameter count of its tables (81,315 in grey, 82,467 in RGB).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.models.entry import ModelEntry
from thinlens.models.layers import check_positive, conv
from thinlens.models.shape_options import ShapeOptions

_STRIDES = (2, 2, 2, 1)
"""Strides of the four blocks. The paper prints none; with these it costs 0.5 % of a DnCNN."""


@dataclass(frozen=True)
class Config:
    """Which classifier."""

    width: int = 64
    """Channels of the first three blocks."""
    features: int = 96
    """Channels of the last block, which are averaged over the image."""
    channels: int = 1
    """Image channels: 1 (grey) or 3 (RGB)."""
    classes: int = 3

    def __post_init__(self) -> None:
        check_positive(width=self.width, features=self.features, channels=self.channels)
        if self.classes < 2:
            raise UsageError(f"classes {self.classes}: wanted at least 2")


class Classifier(nn.Module):
    """Classify images `[B, channels, H, W]` in [0, 1]: logits `[B, classes]`, the easiest first."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths = (config.channels, *[config.width] * 3, config.features)
        blocks = []
        for index, (c_in, c_out) in enumerate(pairwise(widths)):
            kernel = 1 if index == len(_STRIDES) - 1 else 3
            blocks += [
                conv(c_in, c_out, kernel, stride=_STRIDES[index], bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.decide = nn.Linear(config.features, config.classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.decide(self.blocks(image).mean((2, 3)))
        return logits


_DETECT = ShapeOptions(
    {
        "width": ("blocks.0.weight", 0),
        "channels": ("blocks.0.weight", 1),
        "features": ("decide.weight", 1),
        "classes": ("decide.weight", 0),
    }
)

NETWORKS = {
    "classifier": ModelEntry(
        Classifier,
        Config(),
        "denoise",
        channels=1,
        tiny={"width": 8, "features": 8},
        widths=("width", "features"),
        output_kind="logits",
        detect=_DETECT,
    ),
}
