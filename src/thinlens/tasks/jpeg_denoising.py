"""Restoration of compressed photographs: noise of cameras, then JPEG compression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.jpeg_artefacts import BLOCK, jpeg_compressed
from thinlens.tasks.camera_noise import add_camera_noise
from thinlens.tasks.denoising import add_gaussian_noise, check_sigma_range
from thinlens.tasks.task import MetricProtocol, check_channels, whole_image_protocol

NOISES = 3
"""Kinds of noise, equally frequent: none, Gaussian, and a camera's."""

LEAST_QUALITY, LARGEST_QUALITY = 1, 100

MOST_PHOTONS = 1e6


@dataclass(frozen=True)
class JpegDenoising:
    """Remove noise and what JPEG compression adds; both are synthetic here.

    A third of the images has no noise, a third Gaussian noise, a third the Poisson-Gaussian noise
    of a camera. `compressed` of all are then stored as JPEG, half of those with subsampled colours,
    the grid of blocks anywhere. Images that are not compressed are not clipped either.
    """

    channels: int = 3
    sigma_range: tuple[float, ...] = (0.0, 50.0)
    """The least and the largest standard deviation of Gaussian noise, on the 0..255 range."""
    photons: tuple[float, ...] = (20.0, 2000.0)
    """The least and the largest number of photons of white, spread evenly by their logarithms."""
    readout: float = 3.0
    """Largest standard deviation of a camera's counter, in photons."""
    quality: tuple[int, ...] = (20, 95)
    """The least and the largest JPEG quality, both included."""
    compressed: float = 0.75
    """Fraction of the images that are compressed."""
    name: ClassVar[str] = "denoise-jpeg"
    scale: ClassVar[int] = 1
    synthetic: ClassVar[str] = "synthetic camera noise and JPEG compression"
    margin: ClassVar[int] = BLOCK

    def __post_init__(self) -> None:
        check_channels(self.channels)
        check_sigma_range(self.sigma_range)
        for field, low, high in (
            ("photons", 0, MOST_PHOTONS),
            ("quality", LEAST_QUALITY, LARGEST_QUALITY),
        ):
            _check_range(field, getattr(self, field), low, high)
        if not (self.photons[0] > 0 and 0 <= self.readout <= MOST_PHOTONS):
            raise UsageError(
                f"photons {self.photons} and readout {self.readout}: wanted photons above 0 and a "
                "readout of 0 or more"
            )
        if not all(isinstance(value, int) for value in self.quality):
            raise UsageError(f"quality {self.quality}: wanted two whole numbers")
        if not 0 <= self.compressed <= 1:
            raise UsageError(f"compressed {self.compressed}: wanted a fraction, 0 to 1")

    @property
    def protocol(self) -> MetricProtocol:
        return whole_image_protocol(self.channels)

    def align(self, clean: Tensor) -> Tensor:
        return clean

    def downscale(self, clean: Tensor) -> Tensor:
        return clean

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        noisy = self._noisy(image, generator)
        if generator.random() >= self.compressed:
            return noisy
        low, high = self.quality
        return jpeg_compressed(
            noisy,
            int(generator.integers(low, high + 1)),
            subsampled=bool(generator.integers(2)),
            offset=(int(generator.integers(BLOCK)), int(generator.integers(BLOCK))),
        )

    def _noisy(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        kind = int(generator.integers(NOISES))
        if kind == 0:
            return image
        if kind == 1:
            least, largest = self.sigma_range
            return add_gaussian_noise(image, generator.uniform(least, largest), generator)
        low, high = map(math.log, self.photons)
        photons = math.exp(generator.uniform(low, high))
        return add_camera_noise(image, photons, generator.uniform(0, self.readout), generator)


def _check_range(name: str, values: tuple[float, ...], low: float, high: float) -> None:
    """Raise `UsageError` unless `values` are two numbers in rising order from `low` to `high`."""
    numbers = all(isinstance(value, int | float) for value in values)
    if len(values) != 2 or not numbers or not low <= values[0] <= values[1] <= high:
        raise UsageError(
            f"{name} {values}: wanted a least and a largest number, from {low:g} to {high:g}"
        )
