"""Shipped thin networks beside the dense ones that they were made of, on a few pictures.

Each enlarges, or removes what was added to, a picture. All run as `restore --engine auto` runs
them, beside torch's dense network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from thinlens.api import load_checkpoint, runner
from thinlens.engine.timings import measure_interleaved
from thinlens.experiments.photographs import skimage_photographs
from thinlens.experiments.pictures import detailed_square
from thinlens.images.jpeg_artefacts import jpeg_compressed
from thinlens.images.pixels import to_float, to_uint8
from thinlens.images.reading import read_image
from thinlens.images.resize import bicubic_upsample
from thinlens.progress import Progress, Steps
from thinlens.report.contents import ImageVersion, ReportImage
from thinlens.report.side_by_side import most_detailed_square
from thinlens.report.tables import Table
from thinlens.tasks.denoising import add_gaussian_noise
from thinlens.tasks.metrics import float_psnr

PHOTOGRAPH = "chelsea.png"
"""A file of scikit-image."""

DRAWING_SIZE = (180, 320)
"""Height and width of the drawing."""

INPUT_SIDE = 240
"""Side of the square of a photograph, in pixels: as many pixels as the drawing has."""

SHIPPED_ROUNDS = 3
"""Timed runs of each network, of which the median is reported."""

SHOWN_SIDE = 480
"""Side in pixels of the square of a result that is shown."""

SIGMA, QUALITY = 25.0, 30
"""The noise (of 255) and the JPEG quality that the denoisers get."""

Damage = Callable[[Tensor], Tensor]
"""What is done to a picture `[C, H, W]` in [0, 1] before a network gets it."""


@dataclass(frozen=True)
class ShippedPair:
    """A shipped dense network, and the thin one made of it."""

    dense: str
    what: str
    """What it does with a picture."""
    damage: Damage | None = None
    """None for a network that enlarges the picture itself."""

    @property
    def thin(self) -> str:
        """The name of the thin network."""
        return f"{self.dense}-thin"


def _noisy(image: Tensor) -> Tensor:
    return add_gaussian_noise(image, SIGMA, np.random.default_rng(0)).clamp(0, 1)


ENLARGING = ShippedPair("realesr-animevideov3", "enlarged four times")
SHIPPED_PAIRS = (
    ENLARGING,
    ShippedPair("dncnn-color-blind", f"noise of sigma {SIGMA:g} removed", _noisy),
    ShippedPair(
        "dncnn-color-jpeg",
        f"JPEG of quality {QUALITY} repaired",
        partial(jpeg_compressed, quality=QUALITY),
    ),
)


@dataclass(frozen=True)
class ShippedRow:
    """Both networks on one picture."""

    network: str
    """The dense one's name."""
    image: str
    torch_seconds: float
    """Of the dense network in torch."""
    dense_seconds: float
    """Of the dense network as `--engine auto` runs it."""
    thin_seconds: float
    psnr: float
    """Of the thin network's result, in dB, with the dense one's as the reference (RGB, 8 bit)."""
    input_psnr: float | None = None
    """Of the damaged picture, in dB to the original; None for networks that enlarge it."""
    dense_psnr: float | None = None
    thin_psnr: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the row as `demo --json` prints it."""
        return dict(vars(self))


@dataclass(frozen=True)
class ShippedResult:
    """All pairs on their pictures."""

    rows: Sequence[ShippedRow]
    table: Table
    images: Sequence[ReportImage]


NOTHING_SHIPPED = ShippedResult((), Table((), ()), ())


def run_shipped(pictures: Mapping[str, Tensor], progress: Progress) -> ShippedResult:
    """Run every pair on every picture, uint8 `[3, H, W]` by name; without any, on two of ours.

    Those are a drawing, which is only enlarged, and a photograph.
    """
    inputs = {name: to_float(detailed_square(x, INPUT_SIDE)) for name, x in pictures.items()}
    inputs = inputs or {"drawing": drawing(), "photograph": photograph()}
    cases = {
        pair: [x for x in inputs if x != "drawing" or not pair.damage] for pair in SHIPPED_PAIRS
    }
    steps = Steps(progress, sum(map(len, cases.values())))
    rows, images = [], []
    for pair, names in cases.items():
        dense = load_checkpoint(pair.dense)
        networks = [runner(dense, "torch"), runner(dense, "auto")]
        networks.append(runner(load_checkpoint(pair.thin), "auto"))
        for name in names:
            row, image = _compared(pair, networks, name, inputs[name])
            rows.append(row)
            images.append(image)
            steps.one()
    return ShippedResult(rows, _table(rows), images)


def drawing() -> Tensor:
    """Draw a scene of flat colours and dark lines: `[3, *DRAWING_SIZE]` in [0, 1].

    >>> drawing().shape
    torch.Size([3, 180, 320])
    """
    height, width = DRAWING_SIZE
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
    """Read the square of a photograph with most detail: `[3, h, w]` in [0, 1]."""
    (path,) = skimage_photographs((PHOTOGRAPH,))
    return to_float(detailed_square(read_image(path, channels=3), INPUT_SIDE))


def _compared(
    pair: ShippedPair, networks: Sequence[Callable[[Tensor], Tensor]], name: str, picture: Tensor
) -> tuple[ShippedRow, ReportImage]:
    """Run torch's dense network, the dense one and the thin one on a picture, and time them."""
    image = pair.damage(picture) if pair.damage else picture
    with torch.inference_mode():
        _, dense, thin = (to_uint8(network(image[None])[0]) for network in networks)
        runs = [partial(network, image[None]) for network in networks]
        timed = measure_interleaved(runs, SHIPPED_ROUNDS, warmup=0)  # they ran just now
    in_torch, in_dense, in_thin = (median(times) for times in timed)
    row = ShippedRow(pair.dense, name, in_torch, in_dense, in_thin, _psnr(thin, dense))
    if pair.damage is None:
        others = [ImageVersion("bicubic", to_uint8(bicubic_upsample(image[None], 4)[0]))]
    else:
        original, damaged = to_uint8(picture), to_uint8(image)
        row = replace(
            row,
            input_psnr=_psnr(damaged, original),
            dense_psnr=_psnr(dense, original),
            thin_psnr=_psnr(thin, original),
        )
        others = [ImageVersion("input", damaged, row.input_psnr)]
        others.append(ImageVersion("original", original))
    versions = [
        ImageVersion(f"dense {row.dense_seconds:.2f} s", dense, row.dense_psnr),
        ImageVersion(f"thin {row.thin_seconds:.2f} s", thin, row.thin_psnr),
        *others,
    ]
    return row, _shown(pair, name, versions, row.psnr)


def _psnr(result: Tensor, reference: Tensor) -> float:
    return float_psnr(result.double(), reference.double(), 255)


def _shown(
    pair: ShippedPair, name: str, versions: Sequence[ImageVersion], to_dense: float
) -> ReportImage:
    """Return the square of the versions with the most detail."""
    side = min(SHOWN_SIDE, *versions[0].image.shape[-2:])
    top, left = most_detailed_square(to_float(versions[0].image), side)
    square = (slice(None), slice(top, top + side), slice(left, left + side))
    cut = [ImageVersion(x.label, x.image[square].contiguous(), x.psnr) for x in versions]
    remark = f"Shipped as {pair.thin}: {to_dense:.1f} dB to the dense network's result."
    return ReportImage(f"{name}, {pair.what}", cut, remark)


def _table(rows: Sequence[ShippedRow]) -> Table:
    columns = ("network", "picture", "dense in torch s", "dense s", "thin s", "times as fast")
    return Table(
        (*columns, "input dB", "dense dB", "thin dB", "thin to dense dB"),
        [
            (
                row.network,
                row.image,
                *(f"{x:.3f}" for x in (row.torch_seconds, row.dense_seconds, row.thin_seconds)),
                f"{row.torch_seconds / row.thin_seconds:.2f}",
                *(
                    "-" if x is None else f"{x:.2f}"
                    for x in (row.input_psnr, row.dense_psnr, row.thin_psnr)
                ),
                f"{row.psnr:.1f}",
            )
            for row in rows
        ],
        "Shipped thin networks beside the dense ones that they were made of",
    )
