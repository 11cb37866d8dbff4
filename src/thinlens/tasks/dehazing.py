"""Dehazing: real pairs, or synthetic haze on clean images, with a random depth map.

The model is RESIDE's (Li et al., TIP 2019, equations 1 and 2): `I = J t + A (1 - t)` with the
transmission `t = exp(-beta d)`. RESIDE measured or estimated the depth d; here it is drawn, and
metrics on such inputs are reported as synthetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thinlens.errors import UsageError
from thinlens.tasks.task import MetricProtocol, whole_image_protocol

AIRLIGHT = (0.7, 1.0)
SCATTERING = (0.6, 1.8)
"""The ranges of A and beta in RESIDE's indoor training set."""

HILL_GRID = 5
"""Side of the coarse grid of random heights that bend the plane of the depth model."""
ROUGHNESS = 0.5
"""Weight of the hills relative to the plane. Both constants are our choice."""


@dataclass(frozen=True)
class Dehazing:
    """Remove haze from RGB images."""

    crop_target: int = 0
    """Pixels by which targets are larger on every side: 10 in RESIDE's indoor test set (SOTS)."""
    channels: ClassVar[int] = 3
    name: ClassVar[str] = "dehaze"
    scale: ClassVar[int] = 1
    synthetic: ClassVar[str] = "synthetic haze"
    margin: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if self.crop_target < 0:
            raise UsageError(f"--crop-target {self.crop_target}: wanted 0 or more pixels")

    @property
    def protocol(self) -> MetricProtocol:
        return whole_image_protocol(self.channels)

    def align(self, clean: Tensor) -> Tensor:
        crop, (height, width) = self.crop_target, clean.shape[-2:]
        return clean[:, crop : max(crop, height - crop), crop : max(crop, width - crop)]

    def downscale(self, clean: Tensor) -> Tensor:
        return clean

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        airlight = generator.uniform(*AIRLIGHT)
        scattering = generator.uniform(*SCATTERING)
        height, width = image.shape[-2:]
        transmission = torch.exp(-scattering * random_depth(height, width, generator))
        return image * transmission + airlight * (1 - transmission)


def random_depth(height: int, width: int, generator: np.random.Generator) -> Tensor:
    """Draw a depth map in [0, 1], float32 `[1, height, width]`: near at the bottom, far at the top.

    The ground is a plane plus smooth random hills, normalised to [0, 1].
    """
    plane = torch.linspace(1, 0, height, dtype=torch.float64)[:, None].expand(height, width)
    grid = torch.from_numpy(generator.random((1, 1, HILL_GRID, HILL_GRID)))
    hills = F.interpolate(grid, size=[height, width], mode="bicubic", align_corners=True)[0, 0]
    bent = plane + ROUGHNESS * hills
    low, high = bent.min(), bent.max()
    return ((bent - low) / (high - low).clamp(min=1e-9)).float()[None]
