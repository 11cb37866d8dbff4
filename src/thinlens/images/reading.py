"""Read image files safely: decode only plain 8-bit images, and refuse all others in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.opening import MAX_PIXELS, PLAIN_MODE, is_rotated_by_pillow, opened
from thinlens.images.orientation import TRANSPOSED, orientation_of


def read_image(path: Path, *, channels: int | None = 3, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read an image as uint8 `[C, H, W]`, RGB or grey, the way a viewer would show it.

    `channels` 3 repeats grey three times, 1 turns RGB to grey (ITU-R 601 luma, MATLAB's
    `rgb2gray`), None keeps the file's own. EXIF rotation is applied, palettes become RGB.
    Refused, each with one sentence: more than 8 bits a channel, CMYK and other colours, alpha that
    is not opaque everywhere, several frames, more than `max_pixels` (before decoding), anything
    truncated or damaged. Every refusal is a `UsageError` that names the file.
    """
    with opened(path, max_pixels) as (image, _):
        plain = ImageOps.exif_transpose(_plain(image, path))
        if channels is not None:
            plain = plain.convert("L" if channels == 1 else "RGB")
        pixels = torch.from_numpy(np.array(plain))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) as `read_image` would, without decoding a pixel."""
    with opened(path) as (image, file):
        width, height = image.size
        turned = not is_rotated_by_pillow(image)
        transposed = turned and orientation_of(image, file) in TRANSPOSED
        return (width, height) if transposed else (height, width)


def _plain(image: Image.Image, path: Path) -> Image.Image:
    """Decode to mode L or RGB; alpha is dropped only if it is opaque everywhere."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if alpha is not None and alpha.getextrema() != (255, 255):
        raise UsageError(f"{path} is transparent in places: wanted an image without alpha")
    image.load()
    return image.convert(PLAIN_MODE[image.mode])
