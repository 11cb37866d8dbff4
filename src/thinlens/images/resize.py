"""Bicubic resizing: MATLAB's `imresize` to the bit, and bicubic upsampling."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

KERNEL_RADIUS = 2
"""Samples that the bicubic kernel (a = -0.5) extends either way; downsampling by s makes it 2 s."""


def bicubic_downsample(image: Tensor, scale: int) -> Tensor:
    """Downsample uint8 `[C, H, W]` by `scale` as MATLAB's antialiased bicubic `imresize` does.

    H and W are first cropped to multiples of `scale`. The vertical pass comes first and is
    rounded to 8 bit before the horizontal one; borders repeat the edge. This reproduces the
    published LR files of Set5, Set14 and B100 with zero differing values.

    >>> import torch
    >>> bicubic_downsample(torch.full((3, 9, 8), 7, dtype=torch.uint8), scale=4).shape
    torch.Size([3, 2, 2])
    """
    height, width = (size // scale for size in image.shape[-2:])
    cropped = image[None, :, : height * scale, : width * scale].float()
    margin = KERNEL_RADIUS * scale
    rows = F.pad(cropped, (0, 0, margin, margin), mode="replicate")
    low = _interpolate(rows, height + 2 * KERNEL_RADIUS, width * scale)
    low = low[:, :, KERNEL_RADIUS:-KERNEL_RADIUS]
    columns = F.pad(low, (margin, margin, 0, 0), mode="replicate")
    small = _interpolate(columns, height, width + 2 * KERNEL_RADIUS)
    return small[0, :, :, KERNEL_RADIUS:-KERNEL_RADIUS].to(image.dtype)


def bicubic_upsample(image: Tensor, scale: int) -> Tensor:
    """Upsample float `[B, C, H, W]` in [0, 1] by bicubic interpolation (a = -0.5), clipped.

    >>> import torch
    >>> bicubic_upsample(torch.full((1, 1, 2, 2), 0.5), scale=2).shape
    torch.Size([1, 1, 4, 4])
    """
    # antialias=True selects the kernel with a = -0.5, MATLAB's; without it torch takes -0.75.
    large = F.interpolate(image, scale_factor=scale, mode="bicubic", antialias=True)
    return large.clamp(0, 1)


def _interpolate(image: Tensor, height: int, width: int) -> Tensor:
    resized = F.interpolate(image, size=(height, width), mode="bicubic", antialias=True)
    return (resized + 0.5).floor().clamp(0, 255)
