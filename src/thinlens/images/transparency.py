"""Transparency: colours below transparent pixels, and images laid on white."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def filled(colours: Tensor, alpha: Tensor) -> Tensor:
    """Replace the colours of transparent pixels by those of the visible ones around them.

    `colours` are float `[C, H, W]`, `alpha` `[1, H, W]`. What a file stores below transparent
    pixels (often black) would bleed over the edges when a network enlarges it. Every level of a
    pyramid of halves holds the mean of the visible pixels below; holes are filled from the next.

    >>> image, alpha = torch.tensor([[[0.5, 0.0, 0.0]]]), torch.tensor([[[1.0, 0.0, 0.0]]])
    >>> filled(image, alpha)
    tensor([[[0.5000, 0.5000, 0.5000]]])
    """
    visible = (alpha > 0).to(colours.dtype)
    if visible.all() or not visible.any():
        return colours
    return _fill(colours[None] * visible, visible[None])[0]


def _fill(sums: Tensor, weights: Tensor) -> Tensor:
    """Divide sums `[1, C, h, w]` by weights; where these are 0, take the next coarser level."""
    means = sums / weights.clamp(min=torch.finfo(sums.dtype).tiny)
    if weights.all():
        return means
    size = sums.shape[-2:]
    coarse = _fill(_halved(sums), _halved(weights))
    around = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return torch.where(weights > 0, means, around)


def _halved(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)


def on_white(colours: Tensor, alpha: Tensor) -> Tensor:
    """Lay float colours `[C, H, W]` on white, as far as alpha `[1, H, W]` lets it through."""
    return colours * alpha + (1 - alpha)
