"""Losses of thin super-resolution networks on hard images: the mean, and the worst image.

    python benchmarks/hard_images.py --out OUT [--budgets 1/4 1/8] [--seeds 0 1 2] [--hard 0.25]

Published test sets flatter networks that are pruned without training. The judge is five photographs
that never train or calibrate (CC BY-SA), reduced by four, and images made by code: facades, grids,
text, flat and saturated areas, noise. Set5, Set14 and B100 are beside them. Inputs are bicubic
reductions by four; PSNR is that of the luma channel without four pixels of the border. Images on
which the thin network is worse than bicubic enlargement are counted. Needs THINLENS_DATA.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

import thinlens
from thinlens.images.folders import image_paths
from thinlens.images.pixels import to_uint8
from thinlens.images.reading import read_image
from thinlens.images.resize import bicubic_upsample
from thinlens.images.writing import write_png
from thinlens.tasks import make_task
from thinlens.tasks.crops import Crops, crops_from_clean

SCALE = 4
PHOTOGRAPHS = (
    "Bridge_by_Sander_Klootwijk",
    "Dragonfly_by_Bolly",
    "analogpattern_by_Peter_Nerlich",
    "free_by_Peter_Nerlich",
    "greentock_by_Peter_Nerlich",
)
REDUCTION, CROP = 4, 480
"""Of the photographs: the factor that removes compression, and the side of the middle part."""

SIDE = 240
"""Of the made images."""

PERIODS = (5.0, 9.0, 14.0)
"""Of facades, in pixels of the input."""

NOISE = (25, 50, 75)
"""Standard deviations of 255."""


CALIBRATION_IMAGES = 100
"""The number of training images that are read, the first ones by name."""

CROPS = "80x13"
"""Side and number of the inputs in a batch: large ones, because padding at borders biases what is
solved."""


class Bicubic(nn.Module):
    """Bicubic enlargement."""

    def forward(self, image: Tensor) -> Tensor:
        """Return `[B, C, 4 h, 4 w]` for `[B, C, h, w]`."""
        return bicubic_upsample(image, SCALE)


def facade(period: float, angle: float, generator: torch.Generator) -> Tensor:
    """Return `[3, h, w]`: windows in a wall, at an angle, in two colours."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    windows = ((u / (SCALE * period)) % 1 < 0.5) & ((v / (SCALE * period * 1.4)) % 1 < 0.6)
    colours = torch.rand(2, 3, 1, 1, generator=generator)
    return torch.where(windows, *colours)


def text() -> Tensor:
    """Return `[3, h, w]`: black lines of text of several sizes on white."""
    page = Image.new("L", (SIDE, SIDE), 255)
    draw, top = ImageDraw.Draw(page), 4
    for size in (10, 14, 20, 30, 44):
        draw.text(
            (4, top), "Sphinx of black quartz, judge my vow 0123456789", fill=0, font_size=size
        )
        top += int(1.3 * size) + 4
    return (
        torch.frombuffer(bytearray(page.tobytes()), dtype=torch.uint8)
        .view(1, SIDE, SIDE)
        .expand(3, -1, -1)
        / 255
    )


def made_images() -> Iterator[tuple[str, Tensor]]:
    """Yield names and images `[3, h, w]` in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    for period in PERIODS:
        for degrees in (0, 20):
            yield f"facade-{period:g}-{degrees}", facade(period, math.radians(degrees), generator)
    yield "text", text()
    squares = (torch.arange(SIDE)[:, None] // 16 + torch.arange(SIDE) // 16) % 2
    yield "checkerboard", squares.float().expand(3, -1, -1)
    steps = (torch.arange(SIDE) // 30 / 7.0).expand(3, SIDE, SIDE)
    yield "steps", steps
    primaries = torch.eye(3)[(torch.arange(SIDE) // 20) % 3].T[:, None].expand(3, SIDE, SIDE)
    yield "saturated", primaries
    smooth = bicubic_upsample(torch.rand(1, 3, 8, 8, generator=generator), SIDE // 8)[0]
    for sigma in NOISE:
        noise = torch.randn(3, SIDE, SIDE, generator=generator) * sigma / 255
        yield f"noise-{sigma}", (smooth + noise).clamp(0, 1)


def write_judge(photographs: Path, folder: Path) -> None:
    """Write the clean images of the judge."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        image = Image.open(photographs / f"{name}.jpg").convert("RGB").reduce(REDUCTION)
        left, top = (image.width - CROP) // 2, (image.height - CROP) // 2
        image.crop((left, top, left + CROP, top + CROP)).save(folder / f"{name}.png")
    for name, made in made_images():
        write_png(folder / f"{name}.png", to_uint8(made))


def scores(network: nn.Module, folder: Path, engine: str = "auto") -> dict[str, float]:
    """Return PSNR by image."""
    evaluation = thinlens.evaluate(
        network, folder, task=make_task("sr", scale=SCALE), engine=engine
    )
    return {score.name: score.psnr for score in evaluation.per_image}


def crops(folder: Path, sides: str, hard: float) -> Crops:
    """Return crops of training images and their reductions, a share of them `hard` pairs."""
    clean = [read_image(path, channels=3) for path in image_paths(folder)[:CALIBRATION_IMAGES]]
    patch, batch = map(int, sides.split("x"))
    task = make_task("sr", scale=SCALE)
    return crops_from_clean(task, clean, patch=patch, batch_size=batch, hard=hard)


def main() -> None:
    """Print a row for every budget and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="rfdn-x4")
    parser.add_argument("--method", default="least-squares")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budgets", nargs="*", default=["1/4", "1/8", "1/16"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--crops", default=CROPS, metavar="SIDExNUMBER", help="of a batch")
    parser.add_argument("--hard", type=float, default=0.0, help="share of hard crops, 0 to 1")
    options = parser.parse_args()
    data = Path(os.environ["THINLENS_DATA"])
    judge = options.out / "judge"
    write_judge(data / "photos", judge)
    folders = {"judge": judge}
    folders |= {name: data / "sr_test" / name / "x4" for name in ("Set5", "Set14", "B100")}
    network = thinlens.load(options.network).module
    dense = {name: scores(network, folder) for name, folder in folders.items()}
    least = {name: scores(Bicubic(), folder, "torch") for name, folder in folders.items()}
    print("| budget | seed | " + " | ".join(folders) + " | below bicubic |")
    print("|---|---|" + "---|" * len(folders) + "---|")
    means = [f"{sum(by.values()) / len(by):.2f}" for by in dense.values()]
    print("| 1, PSNR | - | " + " | ".join(means) + " | - |", flush=True)
    calibration = crops(data / "train" / "BSDS500" / "train", options.crops, options.hard)
    for budget in options.budgets:
        for seed in options.seeds:
            thin = thinlens.prune(
                network,
                budget=budget,
                method=options.method,
                seed=seed,
                size=(180, 320),
                data=calibration,
            )
            cells, below = [], []
            for name, folder in folders.items():
                psnr = scores(thin.module, folder)
                losses = {image: dense[name][image] - psnr[image] for image in psnr}
                worst = max(losses, key=lambda image: losses[image])
                mean = sum(losses.values()) / len(losses)
                cells.append(f"{mean:.2f} ({losses[worst]:.2f} {Path(worst).stem})")
                below += [Path(x).stem for x in psnr if psnr[x] < least[name][x] <= dense[name][x]]
            row = " | ".join(cells)
            print(f"| {budget} | {seed} | {row} | {', '.join(below) or 'none'} |", flush=True)


if __name__ == "__main__":
    main()
