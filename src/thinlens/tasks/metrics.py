"""PSNR and SSIM of a restored image against its target, by a task's protocol."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from thinlens.errors import UsageError
from thinlens.images.pixels import luma
from thinlens.tasks.task import MetricProtocol

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
"""Wang et al. 2004, section III-B and their `ssim_index.m`: pixels, pixels, stabilisers."""


def psnr(restored: Tensor, target: Tensor, protocol: MetricProtocol) -> float:
    """Return the PSNR in dB of uint8 `[C, H, W]` images; infinity if they are equal.

    >>> image = torch.full((1, 8, 8), 7, dtype=torch.uint8)
    >>> round(psnr(image, image + 1, MetricProtocol("grey", crop=0)), 2)
    48.13
    """
    return float_psnr(*metric_inputs(restored, target, protocol), protocol.range)


def ssim(restored: Tensor, target: Tensor, protocol: MetricProtocol) -> float:
    """Return the mean SSIM of uint8 `[C, H, W]` images, over pixels and channels.

    As `ssim_index.m` without its downsampling: a Gaussian window of 11x11 and sigma 1.5 at every
    position inside the image. Images smaller than the window are a `UsageError`.
    """
    return float_ssim(*metric_inputs(restored, target, protocol), protocol.range)


def float_psnr(x: Tensor, y: Tensor, span: float) -> float:
    """Return the PSNR in dB of two images whose values span 0 to `span`."""
    error = float((x - y).square().mean())
    return 10 * math.log10(span**2 / error) if error else math.inf


def float_ssim(x: Tensor, y: Tensor, span: float) -> float:
    """Return the mean SSIM of two float64 images `[C, H, W]` whose values span 0 to `span`."""
    if min(x.shape[-2:]) < SSIM_WINDOW:
        height, width = x.shape[-2:]
        raise UsageError(
            f"the compared region is {width}x{height}: SSIM needs at least {SSIM_WINDOW} both ways"
        )
    mean_x, mean_y, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    variances = (xx - mean_x**2) + (yy - mean_y**2)
    covariance = xy - mean_x * mean_y
    c1, c2 = ((k * span) ** 2 for k in (SSIM_K1, SSIM_K2))
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return float((luminance * structure).mean())


def metric_inputs(
    restored: Tensor, target: Tensor, protocol: MetricProtocol
) -> tuple[Tensor, Tensor]:
    """Return the float64 images that a protocol compares: its channels, without the border."""
    if restored.shape != target.shape or {restored.dtype, target.dtype} != {torch.uint8}:
        raise UsageError(
            f"cannot compare a {restored.dtype} image of shape {tuple(restored.shape)} with "
            f"{target.dtype} {tuple(target.shape)}: wanted two uint8 images of one shape"
        )
    crop, (height, width) = protocol.crop, target.shape[-2:]
    if min(height, width) <= 2 * crop:
        raise UsageError(f"a {width}x{height} image has no pixels inside a border of {crop}")
    pair = [x[:, crop : height - crop, crop : width - crop] for x in (restored, target)]
    x, y = (luma(x) if protocol.channel == "Y" else x.double() for x in pair)
    return x, y


def _blur(images: Tensor) -> Tensor:
    """Convolve float64 `[B, C, H, W]` with the Gaussian window, without padding."""
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2)).to(images.device)
    window /= window.sum()
    planes = images.flatten(0, 1)[:, None]
    rows = F.conv2d(planes, window.view(1, 1, -1, 1))
    return F.conv2d(rows, window.view(1, 1, 1, -1)).view(*images.shape[:2], *_inside(images))


def _inside(images: Tensor) -> tuple[int, int]:
    height, width = images.shape[-2:]
    return height - SSIM_WINDOW + 1, width - SSIM_WINDOW + 1
