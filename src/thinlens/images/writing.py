"""How does an image reach the disk?"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor

from thinlens.files import atomic_write


def write_png(path: Path, image: Tensor, profile: bytes | None = None) -> None:
    """Write uint8 `[C, H, W]`, RGB or grey, as PNG; `path` changes whole or not at all.

    `profile` is the ICC profile to keep. A failing write is a `RunError` that names `path`.
    """
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    picture = Image.fromarray(pixels.contiguous().cpu().numpy())
    with atomic_write(path) as file:
        picture.save(file, format="PNG", icc_profile=profile)
