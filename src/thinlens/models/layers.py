"""Building blocks that several networks share: convolutions, residual blocks, pixel shuffles."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.errors import UsageError

SCALES = (2, 3, 4)
"""Factors of super-resolution that the papers use."""

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean RGB of DIV2K's training images, from EDSR."""

MID_GREY = (0.5, 0.5, 0.5)
"""Mean that the authors' deblurring framework subtracts: 127.5 on the 0..255 range."""


def conv(
    c_in: int, c_out: int, kernel: int, stride: int = 1, *, bias: bool = True, dilation: int = 1
) -> nn.Conv2d:
    """Make a convolution that keeps the size (at stride 1) by zero padding.

    >>> conv(3, 8, 5)(torch.rand(1, 3, 9, 9)).shape
    torch.Size([1, 8, 9, 9])
    """
    padding = dilation * (kernel // 2)
    return nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, bias=bias)


class ResidualBlock(nn.Module):
    """Two convolutions around a ReLU, added to the input."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels, kernel), nn.ReLU(), conv(channels, channels, kernel)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y


def residual_blocks(channels: int, count: int, kernel: int = 3) -> list[nn.Module]:
    """Make `count` residual blocks to be run one after the other."""
    return [ResidualBlock(channels, kernel) for _ in range(count)]


def double_resolution(c_in: int, c_out: int) -> nn.Sequential:
    """Double height and width: one 3x3 convolution to `4 c_out` channels and a pixel shuffle."""
    return nn.Sequential(conv(c_in, 4 * c_out, 3), nn.PixelShuffle(2))


def upsampler_tail(channels: int, scale: int) -> nn.Sequential:
    """Make one 3x3 convolution to `3 scale^2` channels whose pixel shuffle is the RGB image."""
    return nn.Sequential(conv(channels, 3 * scale**2, 3), nn.PixelShuffle(scale))


def pad_to_minimum(image: Tensor, smallest: int) -> Tensor:
    """Repeat the right and bottom edges until height and width are at least `smallest`."""
    height, width = image.shape[-2:]
    down, right = max(0, smallest - height), max(0, smallest - width)
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the right and bottom edges until height and width are multiples of `multiple`."""
    height, width = image.shape[-2:]
    down, right = -height % multiple, -width % multiple
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize `[B, C, h, w]` to `size` (height, width) by bilinear interpolation."""
    if list(x.shape[-2:]) == list(size):
        return x
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)


def upsampler(channels: int, scale: int, *, activated: bool) -> nn.Sequential:
    """Enlarge features by pixel shuffles: by 2 and again by 2 for scale 4, at once for 2 and 3.

    If `activated`, a ReLU follows every shuffle.
    """
    steps: list[nn.Module] = []
    for factor in (2, 2) if scale == 4 else (scale,):
        steps += [conv(channels, factor**2 * channels, 3), nn.PixelShuffle(factor)]
        steps += [nn.ReLU()] if activated else []
    return nn.Sequential(*steps)


class ColourShift(nn.Module):
    """Shift and scale images between [0, 1] and a network's zero-mean input range.

    The mean is a constant: no count includes it and no checkpoint stores it.
    """

    mean: Tensor

    def __init__(self, input_range: float, mean: Sequence[float] = DIV2K_MEAN) -> None:
        super().__init__()
        self.input_range = input_range
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)

    def centre(self, image: Tensor) -> Tensor:
        """Subtract the mean and scale to the range."""
        return (image - self.mean) * self.input_range

    def restore(self, image: Tensor) -> Tensor:
        """Undo `centre`."""
        return image / self.input_range + self.mean


def check_scale(scale: int) -> None:
    """Raise `UsageError` unless `scale` is one that super-resolution networks are built for."""
    if scale not in SCALES:
        raise UsageError(f"scale {scale}: wanted 2, 3 or 4")


def check_positive(**sizes: float) -> None:
    """Raise `UsageError` naming the first of `sizes` that is not above 0."""
    for name, value in sizes.items():
        if not value > 0:
            raise UsageError(f"{name} {value}: wanted a number above 0")
