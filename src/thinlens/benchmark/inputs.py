"""Input images for timing: smooth, as photographs are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CELL_SIZE = 12
"""Pixels between two random values of a smooth image."""


def smooth_image(channels: int, size: tuple[int, int]) -> Tensor:
    """Return an image `[1, channels, height, width]` in [0, 1) with the smoothness of photographs.

    On noise the outputs of a trained network reach thousands, and their errors mean nothing.
    """
    height, width = size
    coarse = (1, channels, -(-height // CELL_SIZE), -(-width // CELL_SIZE))
    spots = torch.rand(coarse, generator=torch.Generator().manual_seed(0))
    return F.interpolate(spots, size=(height, width), mode="bilinear")
