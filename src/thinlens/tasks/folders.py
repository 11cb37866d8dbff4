"""Which images of a folder belong together, and how does a pair of them reach a network?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from thinlens.tasks.layouts import PairFolders, pair_folders
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


def open_pairs(folder: Path, task: Task, split: str = "test") -> list[PairFiles]:
    """List the pairs of `folder`, sorted by name; a `UsageError` lists all that do not fit.

    Where a data set is parted, `split` ("train" or "test") chooses. Layouts are those of
    `tasks.layouts`; in none of them, every image below `folder` is a clean target. No pixel is
    decoded.
    """
    places = pair_folders(folder, task, split)
    if places:
        return _paired(folder, places, task)
    return [PairFiles(_name(path, folder), None, path) for path in image_paths(folder)]


def read_pair(pair: PairFiles, task: Task, index: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the input, float `[C, h, w]`, and the target, uint8 `[C, scale h, scale w]`.

    An input that the task makes is degraded by what `default_rng([seed, index])` draws, so the
    same numbers give the same input on every machine.
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
    pairs = open_pairs(folder, task, "train")
    targets = _read_all((pair.target for pair in pairs), task)
    inputs = [pair.input for pair in pairs if pair.input]
    if not inputs:
        return crops_of_clean(task, targets, **settings)
    aligned = [task.align(target) for target in targets]
    return Crops(task, _read_all(inputs, task), aligned, degraded=True, **settings)


def _paired(folder: Path, places: Sequence[PairFolders], task: Task) -> list[PairFiles]:
    """Pair the files of all `places` by name, or list in one sentence what has no like."""
    pairs: list[PairFiles] = []
    without_target: list[str] = []
    without_input: list[str] = []
    for place in places:
        targets = {_name(path, place.targets): path for path in image_paths(place.targets)}
        used = set()
        for path in image_paths(place.inputs):
            name = _name(path, place.inputs)
            target = targets.get(place.target_name(name, task))
            if target is None:
                without_target.append(_in_video(place, name))
            else:
                used.add(target)
                pairs.append(PairFiles(_in_video(place, name), path, target))
        without_input += [_in_video(place, name) for name, p in targets.items() if p not in used]
    inputs, target_side = places[0].inputs.name, places[0].targets.name
    times = f"{task.scale} times" if task.scale > 1 else "exactly"
    wrong = _listed(without_target, f"{inputs} has no {target_side} for")
    wrong += _listed(without_input, f"{target_side} has no {inputs} for")
    unlike = [pair.name for pair in pairs if not _sizes_fit(pair, task)]
    wrong += _listed(unlike, f"{target_side} is not {times} as large as {inputs} for")
    if wrong:
        within = folder if len(places) > 1 else places[0].inputs.parent
        raise UsageError(f"{within} holds images that do not pair: {'; '.join(wrong)}")
    return pairs


def _in_video(place: PairFolders, name: str) -> str:
    return f"{place.video}/{name}" if place.video else name


def _sizes_fit(pair: PairFiles, task: Task) -> bool:
    if pair.input is None:
        return True
    width, height = image_size(pair.target)
    height, width = task.align(torch.empty(0, height, width)).shape[-2:]
    return image_size(pair.input) == (width // task.scale, height // task.scale)


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
