"""How does what a user has become batches: a folder, a sequence of tensors, a loader?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.tasks.folders import training_crops
from thinlens.tasks.task import Task
from thinlens.training.objective import TrainingData

Pair = tuple[Tensor, Tensor]
"""(input, target), `[C, h, w]` or `[B, C, h, w]` each."""

Data = str | Path | TrainingData | Sequence[Pair] | Iterable[Pair] | None

CALIBRATION_CROPS = {"patch": 80, "batch_size": 1, "candidates": 1}
"""Crops to calibrate on; large, because borders teach a network nothing."""


def as_batches(data: Data, task: Task | None, *, training: bool) -> TrainingData:
    """Make batches of `data`; a folder needs the `task` that makes or pairs its images."""
    if data is None:
        return _Nothing()
    if isinstance(data, str | Path):
        if task is None:
            raise UsageError(f"a folder ({data}) needs task= to make pairs of its images")
        return training_crops(task, Path(data), **({} if training else CALIBRATION_CROPS))
    if hasattr(data, "batch"):
        return cast(TrainingData, data)
    if isinstance(data, Sequence):
        return _Listed(cast(Sequence[Pair], data))
    return _Streamed(data)


class _Nothing:
    """No data: an error, but only for who asks."""

    def batch(self, seed: int, epoch: int, step: int) -> Pair:
        raise UsageError("this needs images to calibrate or train on: wanted data (--data DIR)")


class _Listed:
    """Pairs in memory, in a new order every epoch."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        if not len(pairs):
            raise UsageError("data is an empty sequence: wanted (input, target) tensors")
        self._pairs = pairs

    def batch(self, seed: int, epoch: int, step: int) -> Pair:
        order = np.random.default_rng([seed, epoch]).permutation(len(self._pairs))
        return _batched(self._pairs[int(order[step % len(order)])])


class _Streamed:
    """A loader, read in its own order and begun anew when it ends; it cannot be resumed."""

    def __init__(self, loader: Iterable[Pair]) -> None:
        self._loader = loader
        self._batches: Iterator[Pair] = iter(loader)

    def batch(self, seed: int, epoch: int, step: int) -> Pair:
        found = next(self._batches, None)
        if found is None:
            self._batches = iter(self._loader)
            found = next(self._batches, None)
        if found is None:
            raise UsageError("data is an empty loader: wanted (input, target) tensors")
        return _batched(found)


def _batched(pair: Pair) -> Pair:
    """Give both tensors of a pair a batch axis."""
    try:
        image, target = pair
        image, target = (x if x.ndim == 4 else x[None] for x in (image, target))
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError("data must give (input, target) pairs of tensors") from error
    if image.ndim != 4 or target.ndim != 4:
        raise UsageError(f"an input shaped {tuple(image.shape)}: wanted [C, h, w] or [B, C, h, w]")
    return image, target
