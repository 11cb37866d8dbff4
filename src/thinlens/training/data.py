"""Training batches from a folder, from tensors (inputs or pairs), or from a loader of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.tasks.folders import training_crops
from thinlens.tasks.task import Task
from thinlens.training.objective import TrainingData, input_batch

Pair = tuple[Tensor, Tensor]
"""(input, target), `[C, h, w]` or `[B, C, h, w]` each."""

Item = Tensor | Pair | tuple[Tensor] | tuple[Tensor, None]
"""An input, alone or in a tuple, or a pair."""

Data = str | Path | TrainingData | Tensor | Sequence[Item] | Iterable[Item] | None
"""A folder of images, `TrainingData`, inputs (`[C, h, w]` or `[B, C, h, w]`) or pairs, or a loader
of such; None where none is needed."""

CALIBRATION_CROPS = {"patch": (80, 64, 48, 32, 24, 16), "batch_size": 1, "candidates": 1}
"""Options of calibration crops: large ones, so that few outputs depend on the border; the first
side that fits in an image."""

SMALLEST_SIDE = 2
"""The least height and width of an image, in pixels, from which anything can be calibrated."""

WANTED_DATA = "wanted inputs or (input, target) pairs of tensors, floats [C, h, w] or [B, C, h, w]"


@runtime_checkable
class InputData(Protocol):
    """Data that may hold inputs alone, whose targets are a network's outputs."""

    @property
    def inputs_only(self) -> bool:
        """Whether there are no targets."""
        ...

    @property
    def description(self) -> str:
        """What was taken for inputs and targets, for messages."""
        ...


def as_batches(data: Data, task: Task | None, *, training: bool) -> TrainingData:
    """Return `data` as batches; a folder needs the `task` that degrades or pairs its images.

    >>> import torch
    >>> pairs = [(torch.zeros(3, 8, 8), torch.ones(3, 16, 16))]
    >>> image, target = as_batches(pairs, None, training=True).batch(seed=0, epoch=0, step=0)
    >>> tuple(target.shape)
    (1, 3, 16, 16)
    >>> inputs_only(as_batches(torch.zeros(5, 3, 8, 8), None, training=False))
    True
    """
    if data is None:
        return _NoData()
    if isinstance(data, str | Path):
        return folder_targets(Path(data), task, training=training)
    if isinstance(data, Tensor):
        return _InMemory(list(data) if data.ndim == 4 else [data])
    if hasattr(data, "batch"):
        return cast(TrainingData, data)
    if isinstance(data, np.ndarray):
        raise UsageError(_numpy(data))
    if isinstance(data, Sequence):
        if isinstance(data, tuple) and len(data) == 2 and all(isinstance(x, Tensor) for x in data):
            raise UsageError(
                "data is a tuple of two tensors: wanted [(input, target)] for a pair, or "
                "[x, y] for two inputs"
            )
        return _InMemory(cast(Sequence[Item], data))
    if not isinstance(data, Iterable):
        raise UsageError(f"data is a {type(data).__name__}: {WANTED_DATA}, a folder or a loader")
    return _FromIterable(data)


def folder_targets(
    folder: Path,
    task: Task | None,
    *,
    training: bool,
    crops: Mapping[str, Any] = MappingProxyType({}),
) -> TrainingData:
    """Return crops of a folder's pairs, or of its clean images, which the task degrades."""
    if task is None:
        raise UsageError(f"a folder ({folder}) needs task= to make pairs of its images")
    return training_crops(task, folder, **{**({} if training else CALIBRATION_CROPS), **crops})


def inputs_only(data: TrainingData) -> bool:
    """Return whether data holds no targets; its `batch` then raises `UsageError`."""
    return isinstance(data, InputData) and data.inputs_only


def data_description(data: TrainingData) -> str:
    """Return what was taken for inputs and targets; empty for data of another package."""
    return data.description if isinstance(data, InputData) else ""


def first_shape(data: TrainingData, seed: int) -> tuple[int, ...]:
    """Return the shape `[1, C, h, w]` of the first input; a loader gives it again."""
    image = data.peek() if isinstance(data, _FromIterable) else input_batch(data, seed, 0, 0)
    return (1, *image.shape[1:])


def first_inputs(data: TrainingData, seed: int, batches: int) -> list[Tensor]:
    """Return the inputs of the first batches; none of a loader, which gives each once."""
    if isinstance(data, _FromIterable):
        return []
    return [input_batch(data, seed, 0, step) for step in range(batches)]


class _NoData:
    """No data: an error when a batch is requested."""

    def batch(self, seed: int, epoch: int, step: int) -> Pair:
        raise UsageError("this needs images to calibrate or train on: wanted data (--data DIR)")


class _Items:
    """Items, inputs or pairs, by the number of a batch."""

    inputs_only: bool
    description: str

    def item(self, seed: int, epoch: int, step: int) -> Any:
        raise NotImplementedError

    def input(self, seed: int, epoch: int, step: int) -> Tensor:
        return _split(self.item(seed, epoch, step))[0]

    def batch(self, seed: int, epoch: int, step: int) -> Pair:
        image, target = _split(self.item(seed, epoch, step))
        if target is None:
            raise UsageError("data holds inputs without targets: wanted (input, target) pairs")
        return image, target


class _InMemory(_Items):
    """Items in memory, in a new order every epoch."""

    def __init__(self, items: Sequence[Item]) -> None:
        if not len(items):
            raise UsageError("data is an empty sequence: wanted inputs or (input, target) tensors")
        self._items = items
        alone = [_split(item)[1] is None for item in items]
        if any(alone) and not all(alone):
            raise UsageError(
                f"{sum(alone)} of {len(items)} inputs have no target: wanted all or none"
            )
        self.inputs_only = all(alone)
        kind = "inputs" if self.inputs_only else "pairs"
        self.description = f"{kind}: {len(items)} {'tensors' if self.inputs_only else 'of tensors'}"

    def item(self, seed: int, epoch: int, step: int) -> Item:
        order = np.random.default_rng([seed, epoch]).permutation(len(self._items))
        return self._items[int(order[step % len(order)])]


class _FromIterable(_Items):
    """A loader, read in its order and restarted when it ends; it cannot be resumed."""

    def __init__(self, loader: Iterable[Item]) -> None:
        self._loader = loader
        self._batches: Iterator[Item] = iter(loader)
        self._next: Item | None = None

    @property
    def inputs_only(self) -> bool:  # type: ignore[override]
        """Whether the next item is an input alone."""
        self.peek()
        return _split(self._next)[1] is None

    def peek(self) -> Tensor:
        """Return the input of the next item, which stays the next."""
        self._next = self._read() if self._next is None else self._next
        return _split(self._next)[0]

    @property
    def description(self) -> str:  # type: ignore[override]
        return f"{'inputs' if self.inputs_only else 'pairs'} of a loader"

    def item(self, seed: int, epoch: int, step: int) -> Item:
        item = self._read() if self._next is None else self._next
        self._next = None
        return item

    def _read(self) -> Item:
        item = next(self._batches, None)
        if item is None:
            self._batches = iter(self._loader)
            item = next(self._batches, None)
        if item is None:
            raise UsageError("data is an empty loader: wanted inputs or (input, target) tensors")
        return item


def _split(item: Any) -> tuple[Tensor, Tensor | None]:
    """Return the input and the target of an item, each with a batch axis."""
    if isinstance(item, Tensor | np.ndarray):
        item = (item,)
    if not isinstance(item, tuple | list) or not 1 <= len(item) <= 2:
        size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise UsageError(f"data gives a {type(item).__name__}{size}: {WANTED_DATA}")
    image, target = (*item, None)[:2]
    return _batched(image, "an input"), None if target is None else _batched(target, "a target")


def _batched(image: Any, kind: str) -> Tensor:
    """Check an image, and add a batch axis if it has none."""
    if isinstance(image, np.ndarray):
        raise UsageError(_numpy(image))
    if not isinstance(image, Tensor):
        raise UsageError(f"data gives a {type(image).__name__} as {kind}: {WANTED_DATA}")
    if image.ndim not in (3, 4) or not image.numel():
        raise UsageError(f"{kind} shaped {tuple(image.shape)}: wanted [C, h, w] or [B, C, h, w]")
    if not image.is_floating_point():
        name = str(image.dtype).removeprefix("torch.")
        raise UsageError(f"{kind} of {name} values: wanted floats in [0, 1], such as x / 255")
    if min(image.shape[-2:]) < SMALLEST_SIDE:
        height, width = image.shape[-2:]
        raise UsageError(f"{kind} of {width}x{height} pixels: wanted larger images")
    if not torch.isfinite(image).all():
        raise UsageError(f"{kind} holds NaN or infinity: wanted values in [0, 1]")
    return image if image.ndim == 4 else image[None]


def _numpy(array: Any) -> str:
    return (
        f"data holds a NumPy array shaped {array.shape}: wanted float tensors [C, h, w] in [0, 1], "
        "such as torch.from_numpy(x).permute(2, 0, 1) / 255"
    )
