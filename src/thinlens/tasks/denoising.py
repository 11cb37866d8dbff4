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
    name: ClassVar[str] = "denoise"
    scale: ClassVar[int] = 1
    synthetic: ClassVar[str] = ""
    margin: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_channels(self.channels)
        for sigma in (self.sigma, *self.sigmas):
            if not isinstance(sigma, float | int) or not 0 < sigma <= 255:
                raise UsageError(f"--sigma {sigma}: wanted a noise level above 0 and up to 255")

    @property
    def protocol(self) -> MetricProtocol:
        return whole_image_protocol(self.channels)

    def align(self, clean: Tensor) -> Tensor:
        return clean

    def downscale(self, clean: Tensor) -> Tensor:
        return clean

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        sigma = float(generator.choice(self.sigmas)) if self.sigmas else self.sigma
        noise = generator.standard_normal(image.shape)
        return (image.double() + torch.from_numpy(noise) * (sigma / 255)).float()


def at_sigma(task: Task, sigma: float) -> Denoising:
    """Return the task at one noise level for all images; `UsageError` if it is not denoising.

    >>> at_sigma(Denoising(sigmas=(15.0, 25.0)), 50).sigmas
    ()
    """
    if not isinstance(task, Denoising):
        raise UsageError(f"--sigma {sigma:g}: only denoising has noise levels, not {task.name}")
    return replace(task, sigma=sigma, sigmas=())
