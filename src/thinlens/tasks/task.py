"""What is a restoration task: how is an input made from a clean image, and how is it judged?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from thinlens.errors import UsageError


@dataclass(frozen=True)
class Judgement:
    """The protocol of a PSNR or SSIM; it is printed with every number."""

    channel: str
    """Y: MATLAB's luma in [16, 235]; grey: the only channel; RGB: all three."""
    crop: int
    """Pixels cut off on every side of the target before comparing."""
    rounding: str = "8 bit"
    range: int = 255


def whole_image(channels: int) -> Judgement:
    """Return the protocol that judges whole images: grey or RGB, nothing cut."""
    return Judgement(channel="grey" if channels == 1 else "RGB", crop=0)


def check_channels(channels: int) -> None:
    """Raise `UsageError` unless images have 1 or 3 channels."""
    if channels not in (1, 3):
        raise UsageError(f"{channels} channels: images have 1 (grey) or 3 (RGB)")


class Task(Protocol):
    """A restoration task. Images are `[C, H, W]`; all values in [0, 1] unless uint8 is said."""

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
        """What inputs are called that the task makes where a camera usually does; else empty.

        Empty where making the input defines the task: bicubic reduction, Gaussian noise.
        """
        ...

    @property
    def margin(self) -> int:
        """Pixels around its own place from which `corrupt` may draw a pixel."""
        ...

    @property
    def judgement(self) -> Judgement:
        """How results are compared with targets."""
        ...

    def align(self, clean: Tensor) -> Tensor:
        """Crop a clean image so that its input has whole pixels, or to the size of its input."""
        ...

    def reduce(self, clean: Tensor) -> Tensor:
        """Make the uint8 input of an aligned uint8 image, before any noise; deterministic."""
        ...

    def corrupt(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Do what is random to a float input `[C, h, w]`: noise, which is not clipped, or blur."""
        ...
