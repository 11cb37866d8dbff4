"""How does MATLAB's `imresize` shrink an image, to the bit?"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

KERNEL_RADIUS = 2
"""The bicubic kernel (a = -0.5) reaches two samples; shrinking by s widens it to 2 s."""


def shrink(image: Tensor, scale: int) -> Tensor:
    """Shrink uint8 `[C, H, W]` by `scale` as MATLAB's antialiased bicubic `imresize` does.

    H and W are first cropped to multiples of `scale`. The vertical pass comes first and is
    rounded to 8 bit before the horizontal one; borders repeat the edge. This reproduces the
    published LR files of Set5, Set14 and B100 with zero differing values.
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


def enlarge(image: Tensor, scale: int) -> Tensor:
    """Enlarge float `[B, C, H, W]` in [0, 1] by bicubic interpolation (a = -0.5), clipped."""
    # antialias=True selects the kernel with a = -0.5, MATLAB's; without it torch takes -0.75.
    large = F.interpolate(image, scale_factor=scale, mode="bicubic", antialias=True)
    return large.clamp(0, 1)


def _interpolate(image: Tensor, height: int, width: int) -> Tensor:
    resized = F.interpolate(image, size=(height, width), mode="bicubic", antialias=True)
    return (resized + 0.5).floor().clamp(0, 255)
