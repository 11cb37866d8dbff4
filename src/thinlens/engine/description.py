"""Attributes of a compiled network by the names that spandrel's descriptors have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from thinlens.errors import UsageError
from thinlens.models import image_channels
from thinlens.models.trial_run import trial_run

TRIAL_LEAST_SIDE = 64
"""Pixels along the sides of the image without values that shows the scale, at least."""


@dataclass(frozen=True)
class SizeRequirements:
    """Which images a network takes, by spandrel's names; the default is every size."""

    minimum: int = 0
    """Pixels that both sides have at least."""
    multiple_of: int = 1
    """A number of which both sides are multiples."""
    square: bool = False

    @property
    def none(self) -> bool:
        """Whether every size is taken."""
        return self.minimum <= 1 and self.multiple_of == 1 and not self.square

    def check(self, width: int, height: int) -> bool:
        """Return whether images of that size are taken.

        >>> SizeRequirements(multiple_of=8).check(16, 12)
        False
        """
        return self.get_padding(width, height) == (0, 0)

    def get_padding(self, width: int, height: int) -> tuple[int, int]:
        """Return how many columns and rows are missing.

        >>> SizeRequirements(minimum=32, multiple_of=8).get_padding(30, 41)
        (2, 7)
        """
        sides = [max(side, self.minimum) for side in (width, height)]
        sides = [max(sides)] * 2 if self.square else sides
        columns, rows = (-(-side // self.multiple_of) * self.multiple_of for side in sides)
        return columns - width, rows - height


class Description:
    """What is known of a network without running it on an image.

    `purpose`, `tiling`, `architecture` and `tags` are known to spandrel alone.
    """

    module: nn.Module
    """The network that runs."""
    device = torch.device("cpu")
    dtype = torch.float32
    """Of images in and out."""
    supports_half = False
    supports_bfloat16 = False

    @property
    def model(self) -> nn.Module:
        """The network in torch; its weights are a copy."""
        return self.module

    @cached_property
    def size_requirements(self) -> Any:
        """What the network states of the images that it takes; every size where it states none."""
        return getattr(self.module, "size_requirements", SizeRequirements())

    @cached_property
    def input_channels(self) -> int:
        """Channels of the images that it takes: stated, or found by running it without values."""
        return image_channels(self.module)

    @property
    def output_channels(self) -> int:
        """Channels of its results."""
        return self._channels_and_scale[0]

    @property
    def scale(self) -> int:
        """How many times larger its results are; `UsageError` where that is no whole number."""
        return self._channels_and_scale[1]

    @cached_property
    def _channels_and_scale(self) -> tuple[int, int]:
        stated = self.size_requirements
        multiple = int(getattr(stated, "multiple_of", 1))
        least = max(int(getattr(stated, "minimum", 1)), TRIAL_LEAST_SIDE)
        side = -(-least // multiple) * multiple
        size = (1, self.input_channels, side, side)
        _, channels, height, width = trial_run(self.module, size, lambda net, x: net(x).shape)
        if height % side or width != height:
            raise UsageError(
                f"the network returns {width}x{height} for {side}x{side}: its scale is no whole "
                "number"
            )
        return int(channels), int(height // side)
