"""Training crops: random batches of patches as a pure function of seed, epoch and step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.tasks.description import describe_clean
from thinlens.tasks.hard_crops import hard_pair
from thinlens.tasks.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crops:
    """Random crops of image pairs held in memory, as a pure function of (seed, epoch, step).

    Crops are augmented by the eight flips and rotations. Of `candidates` random crops the one with
    the largest mean gradient is taken, because flat regions contribute little to training.
    """

    task: Task
    inputs: Sequence[Tensor]
    """uint8 `[C, h, w]`."""
    targets: Sequence[Tensor]
    """uint8 `[C, scale h, scale w]`."""
    patch: int = 48
    """Side of a crop in input pixels."""
    batch_size: int = 8
    """Crops in a batch."""
    candidates: int = 3
    """Random crops of which the most detailed one is taken."""
    degraded: bool = False
    """Whether the inputs are degraded already, so that the task does not corrupt them."""
    source: str = ""
    """What was taken for inputs and targets, where the images come from a folder."""
    hard: float = 0.0
    """Share of pairs that are replaced by hard ones (`tasks.hard_crops`), of tasks that enlarge."""
    sequences: Sequence[Sequence[int]] = ()
    """Positions of targets that are consecutive frames of a video, run by run."""

    def __post_init__(self) -> None:
        if self.patch < 1 or self.batch_size < 1 or self.candidates < 1:
            raise UsageError("patch, batch_size and candidates are at least 1")
        if not 0 <= self.hard <= 1:
            raise UsageError(f"hard {self.hard}: wanted the share of hard pairs, 0 to 1")
        if self.hard and (self.task.scale == 1 or self.degraded):
            raise UsageError(
                "hard pairs are for super-resolution of clean images, whose inputs the task makes"
            )
        small = [index for index, x in enumerate(self.inputs) if min(x.shape[-2:]) < self._side]
        if small:
            around = f" and {self._margin} around it" if self._margin else ""
            raise UsageError(
                f"{len(small)} of {len(self.inputs)} training images are smaller than the patch of "
                f"{self.patch} input pixels{around} (the first has {self._size(small[0])})"
            )
        if not self.inputs:
            raise UsageError("there are no training images")

    @classmethod
    def fitting(
        cls,
        task: Task,
        inputs: Sequence[Tensor],
        targets: Sequence[Tensor],
        *,
        patch: int | Sequence[int] = patch,
        **settings: Any,
    ) -> Crops:
        """Return crops of the images in which one fits; how many were left out is logged.

        `patch` may list sides, of which the first that fits in an image is taken; `settings` are
        the other fields. A `UsageError` if none fits.
        """
        sides = [patch] if isinstance(patch, int) else list(patch)
        around = 0 if settings.get("degraded", cls.degraded) else 2 * task.margin
        shortest = [min(x.shape[-2:]) for x in inputs]
        side = next((x for x in sides if x + around <= max(shortest, default=0)), sides[0])
        if side != sides[0]:
            log.warning("no training image holds a crop of %d pixels: taking %d", sides[0], side)
        fits = [index for index, length in enumerate(shortest) if length >= side + around]
        if 0 < len(fits) < len(inputs):
            log.warning(
                "%d of %d training images are smaller than the patch of %d input pixels: left out",
                *(len(inputs) - len(fits), len(inputs), side),
            )
            inputs, targets = [inputs[i] for i in fits], [targets[i] for i in fits]
            if settings.get("sequences"):
                position = {old: new for new, old in enumerate(fits)}
                runs = [[position.get(i, -1) for i in run] for run in settings["sequences"]]
                settings["sequences"] = [run for run in runs if min(run) >= 0]
        return cls(task, inputs, targets, patch=side, **settings)

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return `(input, target)` in [0, 1], `[B, C, p, p]` and `[B, C, scale p, scale p]`."""
        generator = np.random.default_rng([seed, epoch, step])
        pairs = [self._pair(generator) for _ in range(self.batch_size)]
        return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])

    @property
    def inputs_only(self) -> bool:
        """Whether there are no targets."""
        return False

    @property
    def description(self) -> str:
        """What was taken for inputs and targets, for messages."""
        if self.source:
            return self.source
        return (
            f"{len(self.inputs)} pairs"
            if self.degraded
            else describe_clean(len(self.inputs), self.task)
        )

    @property
    def synthetic(self) -> str:
        """The name of inputs that the task synthesises in place of photographs; else empty."""
        return "" if self.degraded else self.task.synthetic

    @property
    def _margin(self) -> int:
        """Pixels around a crop on which its degradation depends."""
        return 0 if self.degraded else self.task.margin

    @property
    def _side(self) -> int:
        return self.patch + 2 * self._margin

    def _pair(self, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        positions = [self._position(generator) for _ in range(self.candidates)]
        best = max(positions, key=lambda position: _detail(self._cut(self.inputs, position, 1)))
        symmetry = int(generator.integers(8))
        x = apply_symmetry(self._cut(self.inputs, best, 1), symmetry).float() / 255
        y = apply_symmetry(self._cut(self.targets, best, self.task.scale), symmetry).float() / 255
        x = x if self.degraded else self.task.corrupt(x, generator)
        if self.hard and generator.random() < self.hard:
            x, y = hard_pair(x, y, self.task, generator)
        return _crop_border(x, self._margin), _crop_border(y, self._margin * self.task.scale)

    def _position(self, generator: np.random.Generator) -> tuple[int, int, int]:
        index = int(generator.integers(len(self.inputs)))
        height, width = self.inputs[index].shape[-2:]
        top = int(generator.integers(height - self._side + 1))
        left = int(generator.integers(width - self._side + 1))
        return index, top, left

    def _cut(self, images: Sequence[Tensor], position: tuple[int, int, int], scale: int) -> Tensor:
        index, top, left = position
        side, top, left = self._side * scale, top * scale, left * scale
        return images[index][:, top : top + side, left : left + side]

    def _size(self, index: int) -> str:
        height, width = self.inputs[index].shape[-2:]
        return f"{width}x{height}"


def crops_from_clean(task: Task, clean: Sequence[Tensor], **settings: Any) -> Crops:
    """Return training crops of clean uint8 images, each of which the task downscales once."""
    targets = [task.align(image) for image in clean]
    inputs = [task.downscale(image) for image in targets]
    return Crops.fitting(task, inputs, targets, **settings)


def _detail(crop: Tensor) -> float:
    """Return the mean absolute difference of neighbouring pixels."""
    x = crop.float()
    return float((x[:, 1:] - x[:, :-1]).abs().mean() + (x[:, :, 1:] - x[:, :, :-1]).abs().mean())


def _crop_border(crop: Tensor, margin: int) -> Tensor:
    """Cut `margin` pixels off on every side."""
    height, width = crop.shape[-2:]
    return crop[..., margin : height - margin, margin : width - margin]


def apply_symmetry(crop: Tensor, symmetry: int) -> Tensor:
    """Apply one of the eight symmetries of a square, 0 to 7, to images `[..., H, W]`."""
    crop = crop.flip(-1) if symmetry & 1 else crop
    crop = crop.flip(-2) if symmetry & 2 else crop
    return crop.transpose(-1, -2) if symmetry & 4 else crop
