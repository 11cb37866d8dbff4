"""Check of what a compiled network gets as an image."""

from __future__ import annotations

import torch
from torch import Tensor

from thinlens.errors import UsageError


def check_image(image: object) -> None:
    """Raise `UsageError` unless `image` is a dense float32 tensor `[B, C, H, W]` on the CPU.

    >>> check_image(torch.rand(1, 3, 8, 8))
    >>> check_image(None)
    Traceback (most recent call last):
    thinlens.errors.UsageError: an image of type NoneType: wanted a tensor [B, C, H, W]; ...
    """
    if not isinstance(image, Tensor):
        raise UsageError(
            f"an image of type {type(image).__name__}: wanted a tensor [B, C, H, W]; of a NumPy "
            "array [h, w, C] that is torch.from_numpy(image).permute(2, 0, 1)[None]"
        )
    if image.layout != torch.strided:
        raise UsageError(f"an image of layout {image.layout}: wanted image.to_dense()")
    if image.dim() != 4 or not image.numel():
        raise UsageError(f"wanted images [B, C, H, W], none of them 0, not {tuple(image.shape)}")
    if image.dtype != torch.float32 or image.device.type != "cpu":
        raise UsageError(f"wanted float32 on the CPU, not {image.dtype} on {image.device}")
