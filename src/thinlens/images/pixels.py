"""Pixel value conversions: uint8 to float, float to uint8, and luma of RGB."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA_WEIGHTS = (65.481, 128.553, 24.966)
LUMA_BLACK = 16.0
"""MATLAB's `rgb2ycbcr` (ITU-R 601): RGB in [0, 1] to luma in [16, 235]."""


def to_float(image: Tensor) -> Tensor:
    """Map uint8 0..255 to float32 [0, 1].

    >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    return image.float() / 255


def to_uint8(image: Tensor) -> Tensor:
    """Map [0, 1] to uint8 0..255: clipped, then rounded to the nearest value (ties to even).

    >>> to_uint8(torch.tensor([-0.5, 0.2, 7.0]))
    tensor([  0,  51, 255], dtype=torch.uint8)
    """
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def luma(image: Tensor) -> Tensor:
    """Return MATLAB's Y of uint8 RGB `[3, H, W]`, float64 `[1, H, W]` in [16, 235], not rounded.

    >>> luma(torch.full((3, 1, 1), 255, dtype=torch.uint8)).item()
    235.0
    """
    weights = torch.tensor(LUMA_WEIGHTS, dtype=torch.float64, device=image.device) / 255
    return (weights.view(3, 1, 1) * image).sum(0, keepdim=True) + LUMA_BLACK
