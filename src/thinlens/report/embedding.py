"""Pictures inside a page: WebP in data URIs, at the best quality whose total fits."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

QUALITIES = (100, 92, 82, 65, 40)
"""Qualities of WebP that are tried; 100 is lossless."""

LEAST_LOSSLESS = 1.5
"""Characters of a pixel below which a photograph is never stored lossless, so it is not tried."""

LOSSLESS_QUALITY = 100

EFFORT = 2
"""WebP's method: 0 is the fastest, 6 the smallest."""

DIFFERENCE_GAIN = 8
"""Factor of difference images: one level of 8 bits becomes eight."""


def difference_image(image: Tensor, other: Tensor) -> Tensor:
    """Return the enlarged absolute difference of two uint8 images as uint8.

    >>> a, b = torch.full((1, 1, 1), 10, dtype=torch.uint8), torch.zeros(1, 1, 1).to(torch.uint8)
    >>> difference_image(a, b).item(), difference_image(b, a).item()
    (80, 80)
    """
    difference = (image.to(torch.int16) - other.to(torch.int16)).abs() * DIFFERENCE_GAIN
    return difference.clamp(0, 255).to(torch.uint8)


def embed(images: Sequence[Tensor], most_bytes: int) -> tuple[list[str], int]:
    """Return data URIs of uint8 images `[C, H, W]`, and the quality that they have in common.

    It is the best of `QUALITIES` at which all URIs together have at most `most_bytes` characters,
    and the lowest where none fits.
    """
    pixels = sum(image.shape[-2] * image.shape[-1] for image in images)
    lossless = LEAST_LOSSLESS * pixels <= most_bytes
    for quality in QUALITIES if lossless else QUALITIES[1:]:
        links = _encoded(images, quality, most_bytes)
        if len(links) == len(images):
            return links, quality
    return _encoded(images, QUALITIES[-1], None), QUALITIES[-1]


def _encoded(images: Sequence[Tensor], quality: int, most_bytes: int | None) -> list[str]:
    """Return the URIs of the images until their total exceeds `most_bytes`."""
    links: list[str] = []
    total = 0
    for image in images:
        link = f"data:image/webp;base64,{base64.b64encode(_webp(image, quality)).decode()}"
        total += len(link)
        if most_bytes is not None and total > most_bytes:
            break
        links.append(link)
    return links


def _webp(image: Tensor, quality: int) -> bytes:
    rgb = image.expand(3, -1, -1) if image.shape[0] == 1 else image
    picture = Image.fromarray(rgb.permute(1, 2, 0).contiguous().numpy())
    buffer = io.BytesIO()
    save: Callable[..., None] = picture.save
    save(
        buffer, format="WEBP", quality=quality, lossless=quality == LOSSLESS_QUALITY, method=EFFORT
    )
    return buffer.getvalue()
