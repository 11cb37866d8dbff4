"""LPIPS: perceptual distance of two images, from features of a trained network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.pixels import to_float

ImageDistance = Callable[[Tensor, Tensor], float]
"""Maps two uint8 RGB images `[3, H, W]` to a number; 0 for equal images."""

BACKBONE = "alexnet-owt-*.pth"
"""AlexNet's file of weights as torchvision names it, in torch's folder of downloads."""


def lpips_distance() -> ImageDistance:
    """Return LPIPS version 0.1 on AlexNet (Zhang et al., CVPR 2018), of the package `lpips`.

    Nothing is downloaded: a `UsageError` names the package or the weights that are missing.
    """
    try:
        import lpips
    except ImportError as error:
        raise UsageError(
            "LPIPS is not measured: it needs the package lpips (pip install 'thinlens[lpips]')"
        ) from error
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not any(folder.glob(BACKBONE)):
        raise UsageError(
            f"LPIPS is not measured: it needs AlexNet's weights, which torchvision.models.alexnet"
            f"(weights='DEFAULT') downloads to {folder}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips uses torchvision's deprecated argument
        network = lpips.LPIPS(net="alex", version="0.1", verbose=False).eval()

    @torch.inference_mode()
    def distance(restored: Tensor, target: Tensor) -> float:
        pair = [to_float(image)[None] * 2 - 1 for image in (restored, target)]  # in [-1, 1]
        return float(network(*pair))

    return distance
