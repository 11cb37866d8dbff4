"""Restoration tasks: the degradation of clean images, and the protocol of the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from thinlens.errors import UsageError

Channel = Literal["Y", "grey", "RGB"]
"""What a metric compares: MATLAB's luma in [16, 235], the only channel, or all three."""


@dataclass(frozen=True)
class MetricProtocol:
    """The protocol of a PSNR or SSIM; it is printed with every number."""

    channel: Channel
    crop: int
    """Pixels cut off on every side of the target before comparing."""
    rounding: str = "8 bit"
    range: int = 255
    """The peak value of PSNR and SSIM."""


def whole_image_protocol(channels: int) -> MetricProtocol:
    """Return the protocol that compares whole images, grey or RGB.

    >>> whole_image_protocol(3)
    MetricProtocol(channel='RGB', crop=0, rounding='8 bit', range=255)
    """
    return MetricProtocol(channel="grey" if channels == 1 else "RGB", crop=0)


def check_channels(channels: int) -> None:
    """Raise `UsageError` unless images have 1 or 3 channels."""
    if channels not in (1, 3):
        raise UsageError(f"{channels} channels: wanted 1 (grey) or 3 (RGB)")


class Task(Protocol):
    """A restoration task. Images are `[C, H, W]`, with values in [0, 1] unless uint8 is stated."""

    @property
    def name(self) -> str:
        """The key in `TASKS`."""
        ...

    @property
    def channels(self) -> int:
        """Image channels: 3 (RGB) or 1 (grey)."""
        ...

    @property
    def scale(self) -> int:
        """Output pixels per input pixel along a side; 1 except for super-resolution."""
        ...

    @property
    def synthetic(self) -> str:
        """The name of inputs that the task synthesises in place of photographs; else empty.

        Empty where the degradation defines the task: bicubic downsampling, Gaussian noise.
        """
        ...

    @property
    def margin(self) -> int:
        """Pixels around a pixel on which its value after `corrupt` may depend."""
        ...

    @property
    def protocol(self) -> MetricProtocol:
        """How results are compared with targets."""
        ...

    def align(self, clean: Tensor) -> Tensor:
        """Crop a clean image so that its input has whole pixels, or to the size of its input."""
        ...

    def downscale(self, clean: Tensor) -> Tensor:
        """Return the uint8 input of an aligned uint8 image before `corrupt`; deterministic."""
        ...

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Add the random degradation to a float input `[C, h, w]`: noise (not clipped) or blur."""
        ...
