"""Plain restoration: images of a network whose degradation is not known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.resize import bicubic_downsample
from thinlens.tasks.task import MetricProtocol, check_channels, whole_image_protocol

LARGEST_SCALE = 16


@dataclass(frozen=True)
class Restoration:
    """Restore images, grey or RGB, that were degraded in a way that nobody stated.

    Inputs are what a user has. Where a clean image must serve, it is reduced by the scale, and else
    taken as it is.
    """

    scale: int = 1
    channels: int = 3
    name: ClassVar[str] = "restore"
    synthetic: ClassVar[str] = ""
    margin: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_channels(self.channels)
        if not 1 <= self.scale <= LARGEST_SCALE:
            raise UsageError(f"--scale {self.scale}: wanted 1 to {LARGEST_SCALE}")

    @property
    def protocol(self) -> MetricProtocol:
        return whole_image_protocol(self.channels)

    def align(self, clean: Tensor) -> Tensor:
        height, width = (size // self.scale * self.scale for size in clean.shape[-2:])
        return clean[:, :height, :width]

    def downscale(self, clean: Tensor) -> Tensor:
        return bicubic_downsample(clean, self.scale) if self.scale > 1 else clean

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        return image
