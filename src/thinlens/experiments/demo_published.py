"""A published network on a drawing and a photograph: dense, and as it is shipped pruned.

The network is Real-ESRGAN's `realesr-animevideov3`, which enlarges drawings and photographs four
times. Both run as `restore --engine auto` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from thinlens.api import load_checkpoint, runner
from thinlens.engine.timings import measure_interleaved
from thinlens.experiments.photographs import skimage_photographs
from thinlens.images.pixels import to_float, to_uint8
from thinlens.images.reading import read_image
from thinlens.images.resize import bicubic_upsample
from thinlens.report.contents import ImageVersion, ReportImage
from thinlens.report.side_by_side import most_detailed_square
from thinlens.report.tables import Table
from thinlens.tasks.metrics import float_psnr

DENSE, THIN = "realesr-animevideov3", "realesr-animevideov3-thin"
"""Names of the shipped checkpoints."""

PHOTOGRAPH = "chelsea.png"
"""A file of scikit-image."""

INPUT_SIZE = (180, 320)
"""Height and width of both inputs."""

PUBLISHED_ROUNDS = 3
"""Timed runs of each network, of which the median is reported."""

SHOWN_SIDE = 480
"""Side in pixels of the square of a result that is shown."""


@dataclass(frozen=True)
class PublishedRow:
    """Both networks on one input."""

    image: str
    dense_seconds: float
    thin_seconds: float
    psnr: float
    """Of the pruned network's result, in dB, with the dense one's as the reference (RGB, 8 bit)."""

    def as_json(self) -> dict[str, Any]:
        """Return the row as `demo --json` prints it."""
        return dict(vars(self))


@dataclass(frozen=True)
class PublishedResult:
    """Both networks on both inputs."""

    rows: list[PublishedRow]
    table: Table
    images: list[ReportImage]


def run_published() -> PublishedResult:
    """Restore both inputs by both networks."""
    networks = [runner(load_checkpoint(name), "auto") for name in (DENSE, THIN)]
    rows, images = [], []
    for name, image in (("drawing", drawing()), ("photograph", photograph())):
        dense, thin, seconds = _both(networks, image[None])
        difference = float_psnr(to_uint8(thin).double(), to_uint8(dense).double(), 255)
        rows.append(PublishedRow(name, *seconds, difference))
        images.append(_shown(image, (dense, thin), rows[-1]))
    return PublishedResult(rows, _table(rows), images)


def drawing() -> Tensor:
    """Draw a scene of flat colours and dark lines: `[3, *INPUT_SIZE]` in [0, 1].

    >>> drawing().shape
    torch.Size([3, 180, 320])
    """
    height, width = INPUT_SIZE
    fine = 4  # drawn larger and reduced, so that lines are smooth
    sheet = Image.new("RGB", (fine * width, fine * height), (150, 205, 235))
    draw = ImageDraw.Draw(sheet)

    def scaled(*points: float) -> list[float]:
        return [fine * point for point in points]

    line = 2 * fine
    ink = (40, 32, 48)
    draw.ellipse(scaled(235, 15, 285, 65), (250, 225, 120), ink, line)
    hills = scaled(0, 180, 0, 120, 70, 85, 150, 130, 230, 95, 320, 140, 320, 180)
    draw.polygon(hills, "#6fae62", ink)
    draw.rectangle(scaled(40, 90, 120, 160), "#e8d3b0", ink, line)
    draw.polygon(scaled(30, 92, 80, 45, 130, 92), "#b5533c", ink, line)
    draw.rectangle(scaled(68, 120, 92, 160), "#7a4b32", ink, line)
    draw.ellipse(scaled(150, 55, 220, 130), "#f6d2b3", ink, line)
    draw.chord(scaled(146, 48, 224, 120), 180, 360, "#3f4f8f", ink, line)
    for left in (166, 192):
        draw.ellipse(scaled(left, 84, left + 13, 102), "white", ink, line // 2)
        draw.ellipse(scaled(left + 4, 88, left + 10, 99), "#2f7d8c", ink)
    draw.arc(scaled(172, 98, 198, 120), 20, 160, ink, line)
    for index in range(12):
        x = 236 + 7 * index
        draw.line(scaled(x, 118, x, 172), ink, fine)
    for y in (126, 160):
        draw.line(scaled(232, y, 320, y), ink, line)
    reduced = sheet.resize((width, height), Image.Resampling.BOX)
    pixels = torch.frombuffer(bytearray(reduced.tobytes()), dtype=torch.uint8)
    return to_float(pixels.reshape(height, width, 3).permute(2, 0, 1))


def photograph() -> Tensor:
    """Read a photograph at its full resolution, cut to `[3, *INPUT_SIZE]` in [0, 1]."""
    (path,) = skimage_photographs((PHOTOGRAPH,))
    image = to_float(read_image(path, channels=3))
    height, width = INPUT_SIZE
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def _both(
    networks: Sequence[Callable[[Tensor], Tensor]], image: Tensor
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Return both results `[C, H, W]` and the seconds of both networks."""
    with torch.inference_mode():
        dense, thin = (network(image)[0].clamp(0, 1) for network in networks)
        runs = [partial(network, image) for network in networks]
        dense_seconds, thin_seconds = map(median, measure_interleaved(runs, PUBLISHED_ROUNDS))
    return dense, thin, (dense_seconds, thin_seconds)


def _shown(image: Tensor, results: tuple[Tensor, Tensor], row: PublishedRow) -> ReportImage:
    """Return the square with the most detail: dense, thin and bicubic."""
    top, left = most_detailed_square(results[0], SHOWN_SIDE)
    square = (slice(None), slice(top, top + SHOWN_SIDE), slice(left, left + SHOWN_SIDE))
    labels = (f"{DENSE} {row.dense_seconds:.2f} s", f"thin {row.thin_seconds:.2f} s", "bicubic")
    pictures = (*results, bicubic_upsample(image[None], 4)[0])
    versions = [
        ImageVersion(label, to_uint8(whole[square]))
        for label, whole in zip(labels, pictures, strict=True)
    ]
    remark = f"A square of the result. Thin: {row.psnr:.1f} dB to the dense network's result."
    return ReportImage(f"{row.image}, enlarged four times", versions, remark)


def _table(rows: Sequence[PublishedRow]) -> Table:
    height, width = INPUT_SIZE
    return Table(
        (f"input of {width}x{height}", "dense s", "thin s", "times as fast", "thin to dense dB"),
        [
            (
                row.image,
                f"{row.dense_seconds:.3f}",
                f"{row.thin_seconds:.3f}",
                f"{row.dense_seconds / row.thin_seconds:.2f}",
                f"{row.psnr:.1f}",
            )
            for row in rows
        ],
        f"{DENSE} (Real-ESRGAN), shipped thin at a quarter of its multiply-adds",
    )
