"""Motion deblurring: real pairs, or synthetic camera shake on clean images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.tasks.motion_blur import blur_along, random_trajectory
from thinlens.tasks.task import MetricProtocol, check_channels, whole_image_protocol


@dataclass(frozen=True)
class Deblurring:
    """Sharpen images that were blurred while the camera or the scene moved.

    PSNR and SSIM are those of whole RGB frames, as in SLS's Tables 1 and S1.
    """

    channels: int = 3
    reach: int = 16
    """Largest displacement of a pixel by synthetic blur, in pixels."""
    gamma: float = 2.2
    """Exponent of pixel values for linear light, which synthetic blur averages."""
    name: ClassVar[str] = "deblur"
    scale: ClassVar[int] = 1
    synthetic: ClassVar[str] = "synthetic motion blur"

    def __post_init__(self) -> None:
        check_channels(self.channels)
        if self.reach < 1:
            raise UsageError(f"reach {self.reach}: wanted 1 pixel or more")
        if not (self.gamma > 0 and math.isfinite(self.gamma)):
            raise UsageError(f"gamma {self.gamma}: wanted a number above 0")

    @property
    def margin(self) -> int:
        return self.reach

    @property
    def protocol(self) -> MetricProtocol:
        return whole_image_protocol(self.channels)

    def align(self, clean: Tensor) -> Tensor:
        return clean

    def downscale(self, clean: Tensor) -> Tensor:
        return clean

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        light = image.clamp(0, 1) ** self.gamma
        mean = blur_along(light, random_trajectory(generator, self.reach))
        # a blurry photograph is stored as 8 bits
        return (mean.clamp(0, 1) ** (1 / self.gamma) * 255).round() / 255
