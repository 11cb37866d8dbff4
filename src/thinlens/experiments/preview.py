"""Previews: a part of a photograph restored by several networks, side by side, with their speed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from thinlens.errors import UsageError
from thinlens.images.decoding import DecodeOptions, open_photograph
from thinlens.images.pixels import to_float
from thinlens.report.side_by_side import Panel, draw_side_by_side
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.tiled import restore_image

CONTEXT = 32
"""Pixels around the part that the networks see, too."""


@dataclass(frozen=True)
class Region:
    """A part of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> Region:
        """Read X,Y,W,H; `UsageError` for anything else.

        >>> Region.parse("10,20,64,48")
        Region(left=10, top=20, width=64, height=48)
        """
        match = re.fullmatch(r"(\d{1,6}),(\d{1,6}),([1-9]\d{0,4}),([1-9]\d{0,4})", text)
        if match is None:
            raise UsageError(
                f"--preview {text!r}: wanted X,Y,W,H in pixels, such as 100,200,160,120"
            )
        return cls(*map(int, match.groups()))


@dataclass(frozen=True)
class PreviewModel:
    """A network to preview."""

    label: str
    network: Network | Restorer
    channels: int
    """Of its input."""


@dataclass(frozen=True)
class PreviewResult:
    """The picture of one image, and the seconds a megapixel of input by network."""

    path: Path
    seconds_per_megapixel: dict[str, float]


def preview(
    source: Path,
    out: Path,
    region: Region,
    models: Iterable[PreviewModel],
    options: DecodeOptions | None = None,
) -> PreviewResult:
    """Write `out`/<name>.preview.png: a region of an image, and what each network makes of it.

    All panels have the size of the largest result. Networks run twice, and the second run is timed.
    """
    photograph = open_photograph(source, options)
    channels, height, width = photograph.colours.shape
    right, bottom = region.left + region.width, region.top + region.height
    if right > width or bottom > height:
        raise UsageError(
            f"--preview: {region.width}x{region.height} from {region.left},{region.top} on is not "
            f"within {source}, which has {width}x{height} pixels"
        )
    box = (max(0, region.top - CONTEXT), max(0, region.left - CONTEXT))
    rows = photograph.colours.rows(box[0], min(height, bottom + CONTEXT))
    crop = to_float(rows) if rows.dtype == torch.uint8 else rows
    crop = crop[:, :, box[1] : min(width, right + CONTEXT)]
    seconds, results = {}, {}
    for model in models:
        image = crop.expand(model.channels, -1, -1) if channels < model.channels else crop
        for _ in range(2):
            start = time.perf_counter()
            result = restore_image(model.network, image, model.channels)
            elapsed = time.perf_counter() - start
        seconds[model.label] = elapsed / (crop[0].numel() / 1e6)
        results[model.label] = _part(result, crop, region, box)
    largest = max((result.shape[-2:] for result in results.values()), key=lambda size: size[0])
    inner = _part(crop, crop, region, box)
    panels = [Panel("input (bicubic)", _enlarged(inner, largest))]
    for label, result in results.items():
        text = f"{label}\n{seconds[label]:.2f} s a megapixel"
        panels.append(Panel(text, _enlarged(result, largest)))
    path = out / f"{source.name}.preview.png"
    draw_side_by_side(path, panels)
    return PreviewResult(path, seconds)


def _part(result: Tensor, crop: Tensor, region: Region, box: tuple[int, int]) -> Tensor:
    """Cut the region out of a result of the crop, whose upper left corner is `box`."""
    scale = result.shape[-1] // crop.shape[-1]
    top, left = (region.top - box[0]) * scale, (region.left - box[1]) * scale
    return result[:, top : top + region.height * scale, left : left + region.width * scale]


def _enlarged(image: Tensor, size: torch.Size) -> Tensor:
    if image.shape[-2:] == size:
        return image
    large = F.interpolate(image[None], tuple(size), mode="bicubic", antialias=True)
    return large[0].clamp(0, 1)
