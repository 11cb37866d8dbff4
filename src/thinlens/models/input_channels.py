"""Channels of the images that a network takes, found by running it on small ones."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.models.trial_run import trial_run

USUAL_CHANNELS = (3, 1)
"""RGB and grey: a first convolution with so many inputs takes the image."""

FURTHER_CHANNELS = (4, 2, 6)
"""RGB with alpha or with a noise map, grey with a noise map, and pairs of images."""

TRIAL_SIDES = (32, 64, 128)
"""Sides of the square images that are tried: deep networks cannot take the smallest."""

CHANNELS_ATTRIBUTE = "thinlens_channels"
"""An attribute by which a network states the channels of its images, where it is no guess."""


def probed_channels(module: nn.Module) -> int:
    """Return the channels of the images that a network of any package takes.

    Those it states; else those of its first convolution, if it is RGB or grey; else the first
    number, the likely ones first, for which it runs: the first convolution may belong to a later
    layer, or follow a pixel unshuffle. A `UsageError` if it has no convolution or never runs.

    >>> probed_channels(nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3)))
    3
    """
    stated = getattr(module, CHANNELS_ATTRIBUTE, None)
    if isinstance(stated, int):
        return stated
    convolutions = [x.in_channels for x in module.modules() if isinstance(x, nn.Conv2d)]
    if not convolutions:
        raise UsageError(f"{type(module).__name__} has no convolution, so its input is not known")
    first = convolutions[0]
    if first in USUAL_CHANNELS:
        return first
    return next((c for c in _candidates(convolutions) if _runs(module, c)), first)


def _candidates(convolutions: list[int]) -> Iterator[int]:
    """Yield channels in the order of their likelihood, each once."""
    first = convolutions[0]
    unshuffled = [first // area for area in (4, 9, 16, 64) if first % area == 0]
    yield from dict.fromkeys([*USUAL_CHANNELS, *unshuffled, first, *FURTHER_CHANNELS])


def _runs(module: nn.Module, channels: int) -> bool:
    """Return whether `module` runs on an image of so many channels and of some small size."""
    return any(_runs_on(module, (1, channels, side, side)) for side in TRIAL_SIDES)


def _runs_on(module: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        result = trial_run(module, shape, lambda copied, image: copied(image))
    except Exception:  # whatever a network raises
        return False
    return isinstance(result, Tensor | list | tuple | dict)
