"""Deblurring of RGB images: pairs only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.tasks.task import Judgement


@dataclass(frozen=True)
class Deblurring:
    """Sharpen RGB images."""

    channels: ClassVar[int] = 3
    name: ClassVar[str] = "deblur"
    scale: ClassVar[int] = 1
    synthetic: ClassVar[str] = ""

    @property
    def judgement(self) -> Judgement:
        return Judgement(channel="RGB", crop=0)

    def align(self, clean: Tensor) -> Tensor:
        return clean

    def reduce(self, clean: Tensor) -> Tensor:
        return clean

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        raise UsageError("deblurring makes no blur: wanted folders blur and sharp")
