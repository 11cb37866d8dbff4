"""Training batches from a folder, a sequence of tensor pairs, or a data loader."""

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
"""A folder of images, `TrainingData`, pairs, or a loader of pairs; None where none is needed."""

CALIBRATION_CROPS = {"patch": 80, "batch_size": 1, "candidates": 1}
"""Options of calibration crops: large ones, so that few outputs depend on the border."""


def as_batches(data: Data, task: Task | None, *, training: bool) -> TrainingData:
    """Return `data` as batches; a folder needs the `task` that degrades or pairs its images.

    >>> import torch
    >>> pairs = [(torch.zeros(3, 8, 8), torch.ones(3, 16, 16))]
    >>> image, target = as_batches(pairs, None, training=True).batch(seed=0, epoch=0, step=0)
    >>> tuple(target.shape)
    (1, 3, 16, 16)
    """
    if data is None:
        return _NoData()
    if isinstance(data, str | Path):
        if task is None:
            raise UsageError(f"a folder ({data}) needs task= to make pairs of its images")
        return training_crops(task, Path(data), **({} if training else CALIBRATION_CROPS))
    if hasattr(data, "batch"):
        return cast(TrainingData, data)
    if isinstance(data, Sequence):
        return _InMemory(cast(Sequence[Pair], data))
    return _FromIterable(data)


class _NoData:
    """No data: an error when a batch is requested."""

    def batch(self, seed: int, epoch: int, step: int) -> Pair:
        raise UsageError("this needs images to calibrate or train on: wanted data (--data DIR)")


class _InMemory:
    """Pairs in memory, in a new order every epoch."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        if not len(pairs):
            raise UsageError("data is an empty sequence: wanted (input, target) tensors")
        self._pairs = pairs

    def batch(self, seed: int, epoch: int, step: int) -> Pair:
        order = np.random.default_rng([seed, epoch]).permutation(len(self._pairs))
        return _batched(self._pairs[int(order[step % len(order)])])


class _FromIterable:
    """A loader, read in its order and restarted when it ends; it cannot be resumed."""

    def __init__(self, loader: Iterable[Pair]) -> None:
        self._loader = loader
        self._batches: Iterator[Pair] = iter(loader)

    def batch(self, seed: int, epoch: int, step: int) -> Pair:
        pair = next(self._batches, None)
        if pair is None:
            self._batches = iter(self._loader)
            pair = next(self._batches, None)
        if pair is None:
            raise UsageError("data is an empty loader: wanted (input, target) tensors")
        return _batched(pair)


def _batched(pair: Pair) -> Pair:
    """Add a batch axis to both tensors of a pair that has none."""
    try:
        image, target = pair
        image, target = (x if x.ndim == 4 else x[None] for x in (image, target))
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError("data must give (input, target) pairs of tensors") from error
    if image.ndim != 4 or target.ndim != 4:
        raise UsageError(f"an input shaped {tuple(image.shape)}: wanted [C, h, w] or [B, C, h, w]")
    return image, target
