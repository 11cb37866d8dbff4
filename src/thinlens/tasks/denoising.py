"""Denoising of additive white Gaussian noise, grey or RGB."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.tasks.task import MetricProtocol, Task, check_channels, whole_image_protocol


@dataclass(frozen=True)
class Denoising:
    """Remove Gaussian noise; the noisy input is float and not clipped, as DnCNN's authors do."""

    channels: int = 1
    sigma: float = 25.0
    """Standard deviation on the 0..255 range."""
    sigmas: tuple[float, ...] = ()
    """Noise levels of which each image has one at random; if empty, all have `sigma`."""
    sigma_range: tuple[float, ...] = ()
    """The least and the largest noise level, between which each image has one at random; if empty,
    `sigmas` or `sigma` count."""
    name: ClassVar[str] = "denoise"
    scale: ClassVar[int] = 1
    synthetic: ClassVar[str] = ""
    margin: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_channels(self.channels)
        for sigma in (self.sigma, *self.sigmas):
            if not isinstance(sigma, float | int) or not 0 < sigma <= 255:
                raise UsageError(f"--sigma {sigma}: wanted a noise level above 0 and up to 255")
        if self.sigma_range:
            check_sigma_range(self.sigma_range)
            if self.sigmas:
                raise UsageError("sigmas and sigma_range: wanted one of them")

    @property
    def protocol(self) -> MetricProtocol:
        return whole_image_protocol(self.channels)

    def align(self, clean: Tensor) -> Tensor:
        return clean

    def downscale(self, clean: Tensor) -> Tensor:
        return clean

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        sigma = float(generator.choice(self.sigmas)) if self.sigmas else self.sigma
        if self.sigma_range:
            least, largest = self.sigma_range
            sigma = float(generator.uniform(least, largest))
        return add_gaussian_noise(image, sigma, generator)


def add_gaussian_noise(image: Tensor, sigma: float, generator: np.random.Generator) -> Tensor:
    """Return a float image plus white noise of standard deviation `sigma` of 255, not clipped."""
    noise = generator.standard_normal(image.shape)
    return (image.double() + torch.from_numpy(noise) * (sigma / 255)).float()


def check_sigma_range(levels: tuple[float, ...]) -> None:
    """Raise `UsageError` unless `levels` are a least and a largest noise level, 0 to 255."""
    numbers = all(isinstance(level, int | float) for level in levels)
    if len(levels) != 2 or not numbers or not 0 <= levels[0] <= levels[1] <= 255:
        raise UsageError(f"sigma_range {levels}: wanted a least and a largest level, 0 to 255")


def at_sigma(task: Task, sigma: float) -> Denoising:
    """Return the task at one noise level for all images; `UsageError` if it is not denoising.

    >>> at_sigma(Denoising(sigmas=(15.0, 25.0)), 50).sigmas
    ()
    """
    if not isinstance(task, Denoising):
        raise UsageError(f"--sigma {sigma:g}: only denoising has noise levels, not {task.name}")
    return replace(task, sigma=sigma, sigmas=(), sigma_range=())
