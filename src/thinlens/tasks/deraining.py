"""Deraining: rain streaks are taken out of RGB images; made from clean images they are synthetic.

Real pairs come in folders (`tasks.folders`). Where there are none, streaks are drawn: they are
called synthetic wherever their figures show, for they are none of the benchmarks' rain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thinlens.tasks.task import Judgement, whole_image

DROPS = (0.002, 0.02)
"""Drops per pixel, from drizzle to a shower. This and what follows is our own choice, by eye."""
LENGTHS = (9, 25)
"""Pixels that a drop falls while the shutter is open; odd, so that a streak has a centre."""
STEEPEST = math.pi / 6
"""The most that rain slants from the vertical."""
BRIGHTEST = (0.3, 0.9)
"""How much light the brightest drop of an image adds, of white."""


@dataclass(frozen=True)
class Deraining:
    """Take rain streaks out of RGB images."""

    channels: ClassVar[int] = 3
    name: ClassVar[str] = "derain"
    scale: ClassVar[int] = 1
    synthetic: ClassVar[str] = "synthetic rain"
    margin: ClassVar[int] = 0

    @property
    def judgement(self) -> Judgement:
        return whole_image(self.channels)

    def align(self, clean: Tensor) -> Tensor:
        return clean

    def reduce(self, clean: Tensor) -> Tensor:
        return clean

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        height, width = image.shape[-2:]
        return (image + streaks(height, width, generator)).clamp(max=1)


def streaks(height: int, width: int, generator: np.random.Generator) -> Tensor:
    """Draw the light that rain adds: float32 `[1, height, width]`, at least 0.

    Drops fall at random places with random brightness and are drawn out along one slanted line
    of random length; all of it comes from `generator`.
    """
    density = generator.uniform(*DROPS)
    length = 2 * (int(generator.integers(LENGTHS[0], LENGTHS[1] + 1)) // 2) + 1
    slant = generator.uniform(-STEEPEST, STEEPEST)
    brightest = generator.uniform(*BRIGHTEST)
    margin = length // 2  # streaks that begin outside reach into the image
    shape = (height + 2 * margin, width + 2 * margin)
    drops = (generator.random(shape) < density) * generator.random(shape)
    rain = F.conv2d(torch.from_numpy(drops)[None, None], line(length, slant)[None, None])
    return (rain[0] * brightest).clamp(max=1).float()


def line(length: int, slant: float) -> Tensor:
    """Draw a line through the middle of a `[length, length]` square, `slant` from the vertical.

    A row's light is shared by the two columns next to the line, so that every row sums to 1.
    """
    rows = torch.arange(length, dtype=torch.float64) - length // 2
    columns = length // 2 + rows * math.tan(slant)
    left = columns.floor()
    kernel = torch.zeros(length, length + 1, dtype=torch.float64)
    right_share = (columns - left)[:, None]
    kernel.scatter_add_(1, left.long()[:, None], 1 - right_share)
    kernel.scatter_add_(1, left.long()[:, None] + 1, right_share)
    return kernel[:, :length]
