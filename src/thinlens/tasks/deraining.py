"""Deraining: real pairs, or synthetic rain streaks on clean images.

Pairs are read from folders (`tasks.folders`). Without them, streaks are drawn; metrics on these are
reported as synthetic, because they are not the rain of a benchmark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thinlens.tasks.task import MetricProtocol, whole_image_protocol

DROPS_PER_PIXEL = (0.002, 0.02)
"""Range of drops per pixel, from drizzle to shower. The four ranges are our choice, by eye."""
STREAK_LENGTHS = (9, 25)
"""Range of pixels that a drop falls during the exposure; made odd, for a central pixel."""
MAX_SLANT = math.pi / 6
"""Largest angle of rain from the vertical, in radians."""
PEAK_BRIGHTNESS = (0.3, 0.9)
"""Range of the brightness of an image's brightest drop, where white is 1."""


@dataclass(frozen=True)
class Deraining:
    """Remove rain streaks from RGB images."""

    channels: ClassVar[int] = 3
    name: ClassVar[str] = "derain"
    scale: ClassVar[int] = 1
    synthetic: ClassVar[str] = "synthetic rain"
    margin: ClassVar[int] = 0

    @property
    def protocol(self) -> MetricProtocol:
        return whole_image_protocol(self.channels)

    def align(self, clean: Tensor) -> Tensor:
        return clean

    def downscale(self, clean: Tensor) -> Tensor:
        return clean

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        height, width = image.shape[-2:]
        return (image + random_streaks(height, width, generator)).clamp(max=1)


def random_streaks(height: int, width: int, generator: np.random.Generator) -> Tensor:
    """Draw the brightness that rain adds: float32 `[1, height, width]`, at least 0.

    Drops have random positions and brightness and are convolved with one slanted line of random
    length; all is drawn from `generator`.
    """
    density = generator.uniform(*DROPS_PER_PIXEL)
    length = 2 * (int(generator.integers(STREAK_LENGTHS[0], STREAK_LENGTHS[1] + 1)) // 2) + 1
    slant = generator.uniform(-MAX_SLANT, MAX_SLANT)
    brightest = generator.uniform(*PEAK_BRIGHTNESS)
    margin = length // 2  # for streaks that begin outside of the image
    shape = (height + 2 * margin, width + 2 * margin)
    drops = (generator.random(shape) < density) * generator.random(shape)
    rain = F.conv2d(torch.from_numpy(drops)[None, None], line_kernel(length, slant)[None, None])
    return (rain[0] * brightest).clamp(max=1).float()


def line_kernel(length: int, slant: float) -> Tensor:
    """Return a kernel `[length, length]` of a line through its centre, `slant` from the vertical.

    Each row interpolates linearly between the two columns next to the line, and sums to 1.
    """
    rows = torch.arange(length, dtype=torch.float64) - length // 2
    columns = length // 2 + rows * math.tan(slant)
    first = columns.floor()
    kernel = torch.zeros(length, length + 1, dtype=torch.float64)
    fraction = (columns - first)[:, None]
    kernel.scatter_add_(1, first.long()[:, None], 1 - fraction)
    kernel.scatter_add_(1, first.long()[:, None] + 1, fraction)
    return kernel[:, :length]
