"""Comparison of a thin network with its dense one on hard images, which are made by code.

Test sets hold ordinary photographs: on those a thin network can be as good as the dense one and
still break on noise, saturated areas or text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from thinlens.errors import RunError
from thinlens.images.resize import bicubic_upsample
from thinlens.restoration.clipping import counted_clipping
from thinlens.restoration.tiled import restore_image

HARD_SIDE = 64
"""Of the images, in pixels."""

SMOOTHNESS = 8
"""Pixels between the random values of a smooth image."""

NOISE_LEVELS = (25, 50, 75)
"""Standard deviations, of 255."""

BREAKS_BELOW = 20.0
"""Decibels to the dense network's result below which the thin one's is another image."""


@dataclass(frozen=True)
class HardImage:
    """What a thin network makes of a hard image, beside the dense one."""

    name: str
    decibels: float
    """Between the two results; infinite where they are equal, NaN where the thin one is none."""
    clipped: float
    """Share of the thin result's values far outside of [0, 1]."""
    breaks: bool
    """Whether the thin network fails where the dense one does not."""


def hard_images(channels: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and the images `[channels, HARD_SIDE, HARD_SIDE]` in [0, 1], always the same.

    >>> [name for name, image in hard_images(3)][:4]
    ['noise of sigma 25', 'noise of sigma 50', 'noise of sigma 75', 'saturated']
    """
    generator = np.random.default_rng(0)

    def random(*shape: int) -> Tensor:
        return torch.from_numpy(generator.random(shape)).float()

    smooth = bicubic_upsample(random(1, channels, *[HARD_SIDE // SMOOTHNESS] * 2), SMOOTHNESS)[0]
    for sigma in NOISE_LEVELS:
        noise = torch.from_numpy(
            generator.standard_normal((channels, HARD_SIDE, HARD_SIDE))
        ).float()
        yield f"noise of sigma {sigma}", (smooth + sigma / 255 * noise).clamp(0, 1)
    yield "saturated", (4 * smooth - 1.5).clamp(0, 1)
    for name, value in (("black", 0.0), ("grey", 0.5), ("white", 1.0)):
        yield name, torch.full((channels, HARD_SIDE, HARD_SIDE), value)
    rows, columns = torch.arange(HARD_SIDE)[:, None], torch.arange(HARD_SIDE)
    yield "checkerboard", ((rows + columns) % 2).float().repeat(channels, 1, 1)
    strokes = (random(HARD_SIDE // 4, HARD_SIDE // 2) < 0.4).float()
    strokes = strokes.repeat_interleave(4, 0).repeat_interleave(2, 1)
    strokes[:: HARD_SIDE // 4] = 0.0  # lines of text
    yield "text", (1 - strokes).repeat(channels, 1, 1)


def compare_on_hard_images(dense: nn.Module, thin: nn.Module, channels: int) -> list[HardImage]:
    """Restore the hard images by both networks, on images of `channels`.

    An image that breaks the dense network too is no failure of the thin one. Raises `UsageError`
    for a network that does not take them.
    """
    return [_compare(name, image, dense, thin) for name, image in hard_images(channels)]


def hard_images_sentence(images: Sequence[HardImage]) -> str:
    """Return the line that `prune` prints.

    >>> hard_images_sentence([HardImage("text", 31.24, 0.0, breaks=False)])
    'hard images: at least 31.2 dB to the dense network (text)'
    """
    broken = [image for image in images if image.breaks]
    if not broken:
        worst = min(images, key=lambda image: image.decibels)
        return f"hard images: at least {worst.decibels:.1f} dB to the dense network ({worst.name})"
    reasons = ", ".join(f"{image.name} ({_reason(image)})" for image in broken)
    return f"hard images: this network breaks where the dense one does not: {reasons}"


def hard_images_entry(images: Sequence[HardImage]) -> Mapping[str, float | None]:
    """Return the decibels by name for `--json`; None where the thin network gives no image."""
    return {image.name: None if math.isnan(image.decibels) else image.decibels for image in images}


def _compare(name: str, image: Tensor, dense: nn.Module, thin: nn.Module) -> HardImage:
    try:
        with counted_clipping() as by_dense:
            expected = restore_image(dense, image)
    except RunError:
        return HardImage(name, math.inf, 0.0, breaks=False)
    try:
        with counted_clipping() as by_thin:
            result = restore_image(thin, image)
    except RunError:
        return HardImage(name, math.nan, 0.0, breaks=True)
    error = float((result - expected).square().mean())
    decibels = math.inf if error == 0 else -10 * math.log10(error)
    explodes = by_thin.is_notable and not by_dense.is_notable
    differs = decibels < BREAKS_BELOW and not by_dense.is_notable
    return HardImage(name, decibels, by_thin.share, breaks=explodes or differs)


def _reason(image: HardImage) -> str:
    if math.isnan(image.decibels):
        return "NaN or infinity"
    if image.clipped:
        return f"{100 * image.clipped:.1f} % of its values far outside of [0, 1]"
    return f"{image.decibels:.1f} dB to it"
