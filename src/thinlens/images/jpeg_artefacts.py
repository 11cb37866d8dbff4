"""JPEG compression as a degradation: an image as a JPEG file of some quality holds it."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from thinlens.images.pixels import to_uint8

BLOCK = 16
"""Side in pixels of a block of a file with subsampled colours; without, it is half of that."""

_SUBSAMPLED, _FULL = 2, 0
"""Pillow's names of 4:2:0 and of 4:4:4."""


def jpeg_compressed(
    image: Tensor, quality: int, *, subsampled: bool = False, offset: tuple[int, int] = (0, 0)
) -> Tensor:
    """Return `[C, h, w]`, C = 1 or 3, in [0, 1], as a JPEG file of this quality holds it.

    `offset` moves the grid of blocks up and to the left by that many pixels, as if the image was
    cropped afterwards; `subsampled` halves the resolution of colours (4:2:0).

    >>> grey = torch.full((1, 8, 8), 0.5)
    >>> bool((jpeg_compressed(grey, 90) - grey).abs().max() < 1 / 255)
    True
    """
    down, right = offset
    padded = F.pad(image[None], (right, 0, down, 0), mode="replicate")[0]
    pixels = np.ascontiguousarray(to_uint8(padded).permute(1, 2, 0).numpy())
    picture = Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)
    file = io.BytesIO()
    subsampling = _SUBSAMPLED if subsampled else _FULL
    options = {} if len(image) == 1 else {"subsampling": subsampling}
    picture.save(file, "JPEG", quality=quality, **options)
    decoded = np.asarray(Image.open(file), dtype=np.float32) / 255
    result = torch.from_numpy(decoded).reshape(*padded.shape[1:], len(image)).permute(2, 0, 1)
    return result[:, down:, right:].contiguous()
