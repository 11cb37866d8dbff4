"""Crops of images that are a network's inputs as they are, without targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.folders import image_paths
from thinlens.images.reading import image_size, read_image
from thinlens.tasks.crops import apply_symmetry
from thinlens.tasks.folders import open_pairs
from thinlens.tasks.task import Task

READ_IMAGES = 64
"""Images of a folder of which crops are made, spread evenly over it: calibration uses fewer."""

SMALLEST_PATCH = 8
"""The least side of a crop in pixels."""


@dataclass(frozen=True)
class InputCrops:
    """Random square crops of image files, as a pure function of (seed, epoch, step).

    Crops are augmented by the eight flips and rotations. Files are read when they are first used.
    """

    paths: Sequence[Path]
    channels: int
    """Channels of a crop: 3 (RGB) or 1 (grey)."""
    patch: int = 80
    """Side of a crop in pixels."""
    batch_size: int = 1
    """Crops in a batch."""
    source: str = ""
    """What was taken for inputs: a folder, and how many of its images."""
    _images: dict[Path, Tensor] = field(default_factory=dict, repr=False, compare=False)

    inputs_only = True
    """There are no targets."""

    def __post_init__(self) -> None:
        if self.patch < 1 or self.batch_size < 1:
            raise UsageError("patch and batch_size are at least 1")

    @property
    def description(self) -> str:
        """What was taken for inputs, for messages."""
        return f"inputs: crops of {self.patch}x{self.patch} of {self.source}"

    def input(self, seed: int, epoch: int, step: int) -> Tensor:
        """Return crops in [0, 1], `[B, C, p, p]`; `UsageError` for a file that cannot be read."""
        generator = np.random.default_rng([seed, epoch, step])
        return torch.stack([self._crop(generator) for _ in range(self.batch_size)])

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Raise `UsageError`: there are no targets."""
        raise UsageError(f"{self.description}, which have no targets: wanted pairs to train on")

    def _crop(self, generator: np.random.Generator) -> Tensor:
        path = self.paths[int(generator.integers(len(self.paths)))]
        if path not in self._images:
            self._images[path] = read_image(path, channels=self.channels)
        image, side = self._images[path], self.patch
        height, width = image.shape[-2:]
        top = int(generator.integers(height - side + 1))
        left = int(generator.integers(width - side + 1))
        crop = image[:, top : top + side, left : left + side]
        return apply_symmetry(crop, int(generator.integers(8))).float() / 255


@dataclass(frozen=True)
class InputFiles:
    """Images of a folder that are inputs, and their sizes."""

    paths: Sequence[Path]
    largest_patch: int
    """Side of a square that fits in all of them, in pixels."""
    source: str
    """What was taken for inputs, for messages."""


def input_files(folder: Path, task: Task | None, most: int) -> InputFiles:
    """List the inputs in a folder: those of its pairs, or else all images below it.

    Images in which no square of `most` pixels fits are left out if others are larger.
    A `UsageError` if there are none, or none of at least 8x8 pixels.
    """
    if task:
        pairs = open_pairs(folder, task, "train")
        paths = [pair.input for pair in pairs if pair.input and not pair.side_by_side]
        if paths:
            return select_inputs(paths, f"inputs of pairs in {folder}", most)
    return select_inputs(image_paths(folder), f"images in {folder}", most)


def select_inputs(paths: Sequence[Path], kind: str, most: int) -> InputFiles:
    """Select images in which a square of `most` pixels fits, or else the largest of them.

    `kind` names the images in messages. `UsageError` if no square of 8x8 pixels fits in any.
    """
    spread = paths[:: max(1, len(paths) // READ_IMAGES)][:READ_IMAGES]
    sides = {path: min(image_size(path)) for path in spread}
    large = [path for path in spread if sides[path] >= most]
    side = most if large else max(sides.values())
    if side < SMALLEST_PATCH:
        raise UsageError(
            f"the {len(paths)} {kind} are at most {side} pixels high or wide: wanted at least "
            f"{SMALLEST_PATCH}x{SMALLEST_PATCH}"
        )
    kept = large or [path for path in spread if sides[path] == side]
    of = "" if len(kept) == len(paths) else f"{len(kept)} of "
    return InputFiles(kept, side, f"{of}{len(paths)} {kind}")
