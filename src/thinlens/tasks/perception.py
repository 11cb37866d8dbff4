"""How unlike do two images look to a network that was trained to see (LPIPS)?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.pixels import to_float

Distance = Callable[[Tensor, Tensor], float]
"""Maps two uint8 RGB images `[3, H, W]` to a number; 0 says that they look the same."""

BACKBONE = "alexnet-owt-*.pth"
"""AlexNet's weights as torchvision names them, in torch's folder of downloads."""


def lpips_distance() -> Distance:
    """Return LPIPS version 0.1 on AlexNet (Zhang et al., CVPR 2018), of the package `lpips`.

    A `UsageError` says what it misses. Nothing is downloaded.
    """
    try:
        import lpips
    except ImportError as error:
        raise UsageError(
            "LPIPS is not measured: it wants the package lpips (pip install 'thinlens[lpips]')"
        ) from error
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not any(folder.glob(BACKBONE)):
        raise UsageError(
            f"LPIPS is not measured: it wants AlexNet's weights, which torchvision.models.alexnet"
            f"(weights='DEFAULT') downloads to {folder}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips asks torchvision for weights in its old way
        network = lpips.LPIPS(net="alex", version="0.1", verbose=False).eval()

    @torch.inference_mode()
    def distance(restored: Tensor, target: Tensor) -> float:
        pair = [to_float(image)[None] * 2 - 1 for image in (restored, target)]  # in [-1, 1]
        return float(network(*pair))

    return distance
