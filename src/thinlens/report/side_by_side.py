"""Contact sheets: several restorations of one image in one row, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.files import atomic_write
from thinlens.images.pixels import to_uint8

MARGIN, LABEL_HEIGHT, LABEL_SIZE = 8, 40, 14
"""Pixels around a panel, height of the two lines of text below it, and font size."""


@dataclass(frozen=True)
class Panel:
    """One labelled image of a row."""

    label: str
    """At most two lines."""
    image: Tensor
    """[C, H, W] in [0, 1]; all panels have one size."""


def draw_side_by_side(path: Path, panels: Sequence[Panel], zoom: int = 1) -> None:
    """Write the panels in one row with their labels as a PNG; pixels are enlarged `zoom` times."""
    shapes = {tuple(panel.image.shape[-2:]) for panel in panels}
    if len(shapes) != 1:
        raise UsageError(f"panels of a comparison must have one size, not {sorted(shapes)}")
    (height, width), *_ = ((h * zoom, w * zoom) for h, w in shapes)
    size = (
        (width + MARGIN) * len(panels) + MARGIN,
        height + 2 * MARGIN + LABEL_HEIGHT,
    )
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(LABEL_SIZE)
    for index, panel in enumerate(panels):
        left = MARGIN + index * (width + MARGIN)
        picture = _picture(panel.image).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, MARGIN))
        draw.text((left, height + 2 * MARGIN), panel.label, fill="black", font=font)
    with atomic_write(path) as file:
        sheet.save(file, format="PNG")


def most_detailed_square(image: Tensor, side: int) -> tuple[int, int]:
    """Return (top, left) of the square of `side` pixels with the largest gradients."""
    grey = image.mean(0)
    gradient = torch.zeros_like(grey)
    gradient[1:] += (grey[1:] - grey[:-1]).abs()
    gradient[:, 1:] += (grey[:, 1:] - grey[:, :-1]).abs()
    sums = torch.nn.functional.avg_pool2d(gradient[None], side, stride=max(1, side // 8))[0]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return row * max(1, side // 8), column * max(1, side // 8)


def _picture(image: Tensor) -> Image.Image:
    levels = to_uint8(image).expand(3, -1, -1)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
