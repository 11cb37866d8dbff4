"""Metrics against a trajectory of sharp images: the targets of a shaken camera's exposure.

Köhler et al., "Recording and Playback of Camera Shake" (ECCV 2012), section 4: the restored image
is compared with the target of every moment, after fitting its intensity and shift; the best counts.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from thinlens.tasks.metrics import float_psnr, float_ssim, metric_inputs
from thinlens.tasks.task import MetricProtocol

TRAJECTORY_PROTOCOL = "the best of several, each after fitting intensity and whole-pixel shift"
"""The sentence that is printed with these metrics."""


def best_over_trajectory(
    restored: Tensor, targets: Iterable[Tensor], protocol: MetricProtocol
) -> tuple[float, float]:
    """Return the best PSNR in dB and the best SSIM of uint8 images `[C, H, W]`.

    The two may be of different targets. Raises `UsageError` where sizes differ.
    """
    scores = []
    for target in targets:
        pair = fit_to_target(*metric_inputs(restored, target, protocol))
        scores.append((float_psnr(*pair, protocol.range), float_ssim(*pair, protocol.range)))
    return max(psnr for psnr, _ in scores), max(ssim for _, ssim in scores)


def fit_to_target(restored: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return `restored` fitted to `target`, and `target`; both float64 `[C, H, W]`.

    The factor of intensity is that of least squares, the shift that of the largest circular
    correlation of the channels' mean. Both images are 0 where the shifted one has no pixels, so
    that the mean of PSNR is over the whole image.
    """
    energy = restored.square().sum()
    scaled = restored * ((restored * target).sum() / energy) if energy else restored
    spectra = [torch.fft.rfft2(image.mean(0)) for image in (target, scaled)]
    height, width = target.shape[-2:]
    correlation = torch.fft.irfft2(spectra[0] * spectra[1].conj(), s=(height, width))
    peak = divmod(int(correlation.argmax()), width)
    down, right = (_signed(x, n) for x, n in zip(peak, (height, width), strict=True))
    overlap = _shifted(torch.ones_like(target), down, right)
    return _shifted(scaled, down, right), target * overlap


def _signed(shift: int, size: int) -> int:
    """Return a circular shift as the shorter of its two directions."""
    return shift if shift <= size // 2 else shift - size


def _shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Move an image by whole pixels; pixels from outside are 0."""
    moved = image.roll((down, right), (-2, -1))
    for axis, by in ((-2, down), (-1, right)):
        size = image.shape[axis]
        moved.narrow(axis, 0 if by >= 0 else size + by, abs(by)).zero_()
    return moved
