"""How is an image judged that was sharp at many moments, while the camera shook?

Köhler et al., "Recording and Playback of Camera Shake" (ECCV 2012), section 4: against every
moment, with the intensity and the place of the restored image fitted to it, and the best counts.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from thinlens.tasks.metrics import decibels, judged, similarity
from thinlens.tasks.task import Judgement

PROTOCOL = "the best of several, each after fitting intensity and whole-pixel shift"
"""What is printed with figures of this kind."""


def best_of_moments(
    restored: Tensor, moments: Iterable[Tensor], judgement: Judgement
) -> tuple[float, float]:
    """Return the best PSNR in dB and the best SSIM of uint8 images `[C, H, W]`.

    Which moment is the nearest is decided by each metric for itself. Raises `UsageError` where
    sizes differ.
    """
    found = []
    for moment in moments:
        pair = fitted(*judged(restored, moment, judgement))
        found.append((decibels(*pair, judgement.range), similarity(*pair, judgement.range)))
    return max(psnr for psnr, _ in found), max(ssim for _, ssim in found)


def fitted(restored: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return `restored` fitted to `target`, and `target`; both float64 `[C, H, W]`.

    The intensity is that of least squares, the shift that of the largest circular correlation of
    the channels' mean. Where the shift leaves nothing, both are 0, so that PSNR's mean is over the
    whole image.
    """
    energy = restored.square().sum()
    scaled = restored * ((restored * target).sum() / energy) if energy else restored
    spectra = [torch.fft.rfft2(image.mean(0)) for image in (target, scaled)]
    height, width = target.shape[-2:]
    correlation = torch.fft.irfft2(spectra[0] * spectra[1].conj(), s=(height, width))
    place = int(correlation.argmax())
    down, right = (
        _signed(x, n) for x, n in zip(divmod(place, width), (height, width), strict=True)
    )
    seen = _shifted(torch.ones_like(target), down, right)
    return _shifted(scaled, down, right), target * seen


def _signed(shift: int, size: int) -> int:
    """Return a circular shift as the nearer of the two ways."""
    return shift if shift <= size // 2 else shift - size


def _shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Move an image by whole pixels; what comes in is 0."""
    moved = image.roll((down, right), (-2, -1))
    for axis, by in ((-2, down), (-1, right)):
        size = image.shape[axis]
        moved.narrow(axis, 0 if by >= 0 else size + by, abs(by)).zero_()
    return moved
