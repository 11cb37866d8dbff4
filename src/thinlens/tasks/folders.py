"""Which images of a folder belong together, and how does a pair of them reach a network?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.pixels import to_float
from thinlens.images.reading import image_paths, image_size, read_image
from thinlens.tasks.crops import Crops, crops_of_clean
from thinlens.tasks.task import Task

MOST_NAMED = 5
"""How many files a sentence names before it only counts."""


@dataclass(frozen=True)
class PairFiles:
    """A target and, unless the task makes it, its input."""

    name: str
    """The input's path relative to its folder, without suffix."""
    input: Path | None
    """None: the task degrades the target."""
    target: Path


@dataclass(frozen=True)
class Layout:
    """Two folders side by side whose files belong together by name."""

    input: str
    target: str
    target_name: Callable[[str, Task], str] = lambda name, task: name
    """The target's name, given an input's."""


LAYOUTS = (
    # DIV2K calls the input of 0001 0001x4.
    Layout("LR", "HR", lambda name, task: name.removesuffix(f"x{task.scale}")),
    Layout("input", "target"),
    Layout("blur", "sharp"),
    # RESIDE makes several hazy images of one: 1400_1 and 1_1_0.90179 belong to 1400 and 1.
    Layout("hazy", "gt", lambda name, task: name.split("_")[0]),
    Layout("hazy", "clear", lambda name, task: name.split("_")[0]),
    # Rain100L and Rain100H call the input of norain-1 rain-1, and norain-1x2 where it is heavier.
    Layout("rain", "norain", lambda name, task: f"no{name.removeprefix('no').removesuffix('x2')}"),
)


def open_pairs(folder: Path, task: Task) -> list[PairFiles]:
    """List the pairs of `folder`, sorted by name; a `UsageError` lists all that do not fit.

    Pairs are two folders of `LAYOUTS`, in `folder` or in its `x<scale>`; else every image below
    `folder` is a clean target. No pixel is decoded.
    """
    for place in (folder, folder / f"x{task.scale}"):
        for layout in LAYOUTS:
            if (place / layout.input).is_dir() and (place / layout.target).is_dir():
                return _paired(place, layout, task)
    return [PairFiles(_name(path, folder), None, path) for path in image_paths(folder)]


def read_pair(pair: PairFiles, task: Task, index: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the input, float `[C, h, w]`, and the target, uint8 `[C, scale h, scale w]`.

    An input that the task makes is degraded with the noise of `default_rng([seed, index])`, so
    the same numbers give the same input on every machine.
    """
    target = task.align(read_image(pair.target, channels=task.channels))
    if pair.input is not None:
        return to_float(read_image(pair.input, channels=task.channels)), target
    if not target.numel():
        raise UsageError(f"{pair.target} is smaller than {task.scale}x{task.scale} pixels")
    generator = np.random.default_rng([seed, index])
    return task.corrupt(to_float(task.reduce(target)), generator), target


def training_crops(task: Task, folder: Path, **settings: Any) -> Crops:
    """Read a folder of training pairs or clean images into memory (layouts as `open_pairs`).

    `settings` are `Crops`' patch, batch_size and candidates. A `UsageError` lists every file that
    cannot be read.
    """
    pairs = open_pairs(folder, task)
    targets = _read_all((pair.target for pair in pairs), task)
    inputs = [pair.input for pair in pairs if pair.input]
    if not inputs:
        return crops_of_clean(task, targets, **settings)
    aligned = [task.align(target) for target in targets]
    return Crops(task, _read_all(inputs, task), aligned, degraded=True, **settings)


def _paired(place: Path, layout: Layout, task: Task) -> list[PairFiles]:
    targets = {
        _name(path, place / layout.target): path for path in image_paths(place / layout.target)
    }
    pairs, without_target = [], []
    for path in image_paths(place / layout.input):
        name = _name(path, place / layout.input)
        target = targets.get(layout.target_name(name, task))
        if target is None:
            without_target.append(name)
        else:
            pairs.append(PairFiles(name, path, target))
    used = {pair.target for pair in pairs}
    without_input = [name for name, path in targets.items() if path not in used]
    wrong = _listed(without_target, f"{layout.input} has no {layout.target} for")
    wrong += _listed(without_input, f"{layout.target} has no {layout.input} for")
    wrong += _listed([p.name for p in pairs if not _sizes_fit(p, task)], _size_rule(layout, task))
    if wrong:
        raise UsageError(f"{place} holds images that do not pair: {'; '.join(wrong)}")
    return pairs


def _sizes_fit(pair: PairFiles, task: Task) -> bool:
    if pair.input is None:
        return True
    width, height = image_size(pair.target)
    height, width = task.align(torch.empty(0, height, width)).shape[-2:]
    return image_size(pair.input) == (width // task.scale, height // task.scale)


def _size_rule(layout: Layout, task: Task) -> str:
    times = f"{task.scale} times" if task.scale > 1 else "exactly"
    return f"{layout.target} is not {times} as large as {layout.input} for"


def _read_all(paths: Iterable[Path], task: Task) -> list[Tensor]:
    images, failures = [], []
    for path in paths:
        try:
            images.append(read_image(path, channels=task.channels))
        except UsageError as error:
            failures.append(str(error))
    if failures:
        raise UsageError(f"{len(failures)} training images are unusable: {_shortened(failures)}")
    return images


def _listed(names: list[str], what: str) -> list[str]:
    return [f"{what} {_shortened(names)}"] if names else []


def _shortened(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()
