"""Make Real-ESRGAN's networks thin by `repair`: free photographs, and patterns drawn by code.

    python benchmarks/realesrgan_thin.py WEIGHTS.pth OUT --photos DIR --minutes 45 --test DIR

Prints the PSNR of the thin network's result to the dense network's for every image of `--test`.
Inputs are photographs reduced by 1.5 to 8, a quarter of them replaced by facades (crossed waves
with sharp edges) and drawings (flat colours, dark lines).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

import thinlens
from thinlens.api import load_checkpoint
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

REDUCTIONS = (1.5, 2, 2.8, 4, 5.6, 8)
"""Factors by which photographs are reduced, so that their detail is that of small images."""

FACADES, DRAWINGS = 0.2, 0.08
"""Fractions of the inputs that are drawn by code."""

OVERSAMPLING = 4
"""Drawings are drawn so many times larger and reduced."""

Pixels = NDArray[np.float32]
"""`[height, width, 3]` in [0, 1]."""


def facade(rng: np.random.Generator, size: int) -> Pixels:
    """Draw one to three rotated square waves of 2.2 to 16 pixels over each other."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    image = np.ones((size, size, 3), np.float32) * rng.random(3)
    for _ in range(rng.integers(1, 4)):
        angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(2.2), np.log(16)))
        along = x * np.cos(angle) + y * np.sin(angle)
        phase = ((along + rng.uniform(0, period)) % period) / period
        duty, softness = rng.uniform(0.25, 0.75), rng.uniform(0.3, 1.2)
        inside = np.minimum(phase, duty - phase)
        outside = -np.minimum(phase - duty, 1 - phase)
        edge = np.where(phase < duty, inside, outside) * period / softness
        share = 1 / (1 + np.exp(-np.clip(3 * edge, -30, 30)))[..., None]
        colour = rng.random(3) if rng.random() < 0.6 else np.ones(3) * rng.random()
        image = image * (1 - share) + colour * share
    return image.astype(np.float32)


def drawing(rng: np.random.Generator, size: int) -> Pixels:
    """Draw polygons, ellipses and lines: flat colours with dark outlines."""
    side = OVERSAMPLING * size
    image = Image.new("RGB", (side, side), _colour(rng, 256))
    canvas = ImageDraw.Draw(image)
    for _ in range(rng.integers(4, 14)):
        fill, line = _colour(rng, 256), _colour(rng, 70)
        width = int(rng.integers(1, 3 * OVERSAMPLING))
        centre, radius = rng.uniform(0, side, 2), rng.uniform(0.08, 0.5) * side
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        spokes = radius * rng.uniform(0.5, 1, len(angles))
        points = [
            (float(centre[0] + r * np.cos(a)), float(centre[1] + r * np.sin(a)))
            for a, r in zip(angles, spokes, strict=True)
        ]
        kind = rng.integers(0, 3)
        if kind == 0:
            canvas.polygon(points, fill=fill)
            canvas.line([*points, points[0]], fill=line, width=width, joint="curve")
        elif kind == 1:
            low, high = centre - radius, centre + radius
            canvas.ellipse([*low.tolist(), *high.tolist()], fill=fill, outline=line, width=width)
        else:
            canvas.line(points, fill=line, width=width, joint="curve")
    return np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32) / 255


def _colour(rng: np.random.Generator, limit: int) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(0, limit, 3))
    return red, green, blue


@dataclass(frozen=True)
class Inputs:
    """Batches of inputs without targets, each a function of (seed, epoch, step)."""

    photographs: list[NDArray[np.uint8]]
    size: int
    count: int

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs `[count, 3, size, size]`, twice: repair reads no targets."""
        rng = np.random.default_rng([seed, epoch, step])
        crops = [self._crop(rng).transpose(2, 0, 1) for _ in range(self.count)]
        image = torch.from_numpy(np.stack(crops).astype(np.float32))
        return image, image

    def _crop(self, rng: np.random.Generator) -> Pixels:
        share = rng.random()
        if share < FACADES:
            return facade(rng, self.size)
        if share < FACADES + DRAWINGS:
            return drawing(rng, self.size)
        candidates = [self._photograph(rng) for _ in range(2)]
        crop = max(candidates, key=lambda x: float(np.abs(np.diff(x, axis=0)).mean()))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        return crop[::-1] if rng.random() < 0.5 else crop

    def _photograph(self, rng: np.random.Generator) -> Pixels:
        image = self.photographs[rng.integers(len(self.photographs))]
        y = rng.integers(image.shape[0] - self.size + 1)
        x = rng.integers(image.shape[1] - self.size + 1)
        crop: Pixels = image[y : y + self.size, x : x + self.size].astype(np.float32) / 255
        return crop


def read_photographs(folder: Path) -> list[NDArray[np.uint8]]:
    """Read all JPEG files of a folder, reduced by every factor."""
    reduced = []
    for path in sorted(folder.glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        for factor in REDUCTIONS:
            size = (int(image.width / factor), int(image.height / factor))
            reduced.append(np.asarray(image.resize(size, Image.Resampling.BICUBIC)))
    return reduced


@torch.no_grad()
def compare(dense: nn.Module, thin: nn.Module, folder: Path) -> dict[str, float]:
    """Return the PSNR (RGB, 8 bit) of the thin to the dense result, by file name."""
    figures = {}
    for path in sorted(folder.glob("*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float32).transpose(2, 0, 1) / 255
        image = torch.from_numpy(pixels)[None]
        first, second = ((255 * net(image).clamp(0, 1)).round() for net in (dense, thin))
        figures[path.name] = float(10 * torch.log10(255**2 / (first - second).square().mean()))
    return figures


def main() -> None:
    """Prune, repair, save and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--budget", default="1/4")
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    dense = load_checkpoint(options.weights)
    data = Inputs(read_photographs(options.photos), options.size, options.batch)
    thin = thinlens.prune(
        dense,
        budget=options.budget,
        method="repair",
        data=data,
        minutes=options.minutes,
        trainer=Trainer(Settings(steps=0), options.out),
    )
    print(f"{options.out}: {thinlens.save(options.out, thin, store='fp16')} bytes")
    figures = compare(dense.module.eval(), thin.module.eval(), options.test)
    for name, decibels in figures.items():
        print(f"{name} {decibels:.2f} dB")


if __name__ == "__main__":
    main()
