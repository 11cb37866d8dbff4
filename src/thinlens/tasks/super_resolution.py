"""Super-resolution: inputs are MATLAB-style bicubic reductions; Y-PSNR with the border cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.resize import shrink
from thinlens.tasks.task import Judgement


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
            raise UsageError(f"--scale {self.scale}: super-resolution knows 2, 3 and 4")

    @property
    def judgement(self) -> Judgement:
        return Judgement(channel="Y", crop=self.scale)

    def align(self, clean: Tensor) -> Tensor:
        height, width = (size // self.scale * self.scale for size in clean.shape[-2:])
        return clean[:, :height, :width]

    def reduce(self, clean: Tensor) -> Tensor:
        return shrink(clean, self.scale)

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        return image
