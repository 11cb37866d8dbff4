"""Super-resolution: MATLAB-style bicubic downsampling; metrics of luma without the border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.resize import bicubic_downsample
from thinlens.tasks.task import MetricProtocol


@dataclass(frozen=True)
class SuperResolution:
    """Enlarge RGB images by 2, 3 or 4."""

    scale: int = 4
    channels: ClassVar[int] = 3
    name: ClassVar[str] = "sr"
    synthetic: ClassVar[str] = ""
    margin: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if self.scale not in (2, 3, 4):
            raise UsageError(f"--scale {self.scale}: wanted 2, 3 or 4")

    @property
    def protocol(self) -> MetricProtocol:
        return MetricProtocol(channel="Y", crop=self.scale)

    def align(self, clean: Tensor) -> Tensor:
        height, width = (size // self.scale * self.scale for size in clean.shape[-2:])
        return clean[:, :height, :width]

    def downscale(self, clean: Tensor) -> Tensor:
        return bicubic_downsample(clean, self.scale)

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        return image
