"""Averages of consecutive sharp frames, labelled by how many: ClassPruning's equation 1."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.tasks.crops import Crops, apply_symmetry

MOST_FRAMES = 9
"""Largest number of frames that are averaged."""


def consecutive_frames(paths: Sequence[Path]) -> tuple[tuple[int, ...], ...]:
    """Return the positions in `paths` of each run of frames with consecutive numbers in a folder.

    >>> consecutive_frames([Path("a/3.png"), Path("a/4.png"), Path("a/9.png"), Path("b/10.png")])
    ((0, 1), (2,), (3,))
    """
    by_folder: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for position, path in enumerate(paths):
        match = re.search(r"(\d+)\D*$", path.stem)
        if match:
            by_folder[path.parent].append((int(match[1]), position))
    runs: list[list[int]] = []
    for frames in by_folder.values():
        previous = None
        for number, position in sorted(frames):
            if previous is None or number != previous + 1:
                runs.append([])
            runs[-1].append(position)
            previous = number
    return tuple(tuple(run) for run in runs)


def frame_counts(text: str) -> tuple[int, ...]:
    """Read the numbers of frames of the classes, the easiest first.

    >>> frame_counts("3,5,9")
    (3, 5, 9)
    """
    words = [word.strip() for word in text.split(",")]
    counts = tuple(int(word) for word in words if word.isdecimal())
    odd = all(count % 2 and count <= MOST_FRAMES for count in counts)
    if len(counts) != len(words) or not odd or list(counts) != sorted({*counts}):
        raise UsageError(
            f"label_frames {text!r}: wanted odd, rising numbers up to {MOST_FRAMES}, such as 3,5,9"
        )
    return counts


@dataclass(frozen=True)
class FrameAverages:
    """Batches of `(image, class)`: the mean of N_i sharp frames around one, for every class i.

    Equation 1 (whose sum lacks the factor 1 / N_i), of the same crop of all frames.
    """

    crops: Crops
    counts: tuple[int, ...]
    """N of equation 1 by class, odd."""

    def __post_init__(self) -> None:
        if not self._middles():
            longest = max((len(run) for run in self.crops.sequences), default=0)
            raise UsageError(
                f"label_frames {','.join(map(str, self.counts))}: wanted {max(self.counts)} "
                f"consecutive frames of a video, and there are {longest} (frames have numbers in "
                "their names and videos folders of their own)"
            )

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return images in [0, 1], `[L B, C, p, p]`, and their classes, `[L B]`."""
        generator, middles = np.random.default_rng([seed, epoch, step]), self._middles()
        images, classes = [], []
        for _ in range(self.crops.batch_size):
            run, middle = middles[int(generator.integers(len(middles)))]
            frames = self._frames(run, middle, generator)
            for label, count in enumerate(self.counts):
                first = (len(frames) - count) // 2
                images.append(frames[first : first + count].mean(0))
                classes.append(label)
        return torch.stack(images), torch.tensor(classes)

    def _middles(self) -> list[tuple[Sequence[int], int]]:
        """Return the frames with enough neighbours, each with its run."""
        around = max(self.counts) // 2
        return [
            (run, middle)
            for run in self.crops.sequences
            for middle in range(around, len(run) - around)
        ]

    def _frames(self, run: Sequence[int], middle: int, generator: np.random.Generator) -> Tensor:
        """Cut one place out of the frames around the middle one, float `[N, C, p, p]`."""
        around, side = max(self.counts) // 2, self.crops.patch
        frames = [self.crops.targets[run[x]] for x in range(middle - around, middle + around + 1)]
        height, width = frames[0].shape[-2:]
        top, left = (int(generator.integers(size - side + 1)) for size in (height, width))
        stack = torch.stack([frame[:, top : top + side, left : left + side] for frame in frames])
        return apply_symmetry(stack, int(generator.integers(8))).float() / 255
