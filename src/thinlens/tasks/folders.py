"""Which images of a folder belong together, and how does a pair of them reach a network?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.pixels import to_float
from thinlens.images.reading import image_paths, image_size, read_image
from thinlens.tasks.crops import Crops, crops_of_clean
from thinlens.tasks.layouts import pair_folders
from thinlens.tasks.pairs import PairFiles, PairFolders, name_of
from thinlens.tasks.task import Task

MOST_NAMED = 5
"""How many files a sentence names before it only counts."""


def open_pairs(folder: Path, task: Task, split: str = "test") -> list[PairFiles]:
    """List the pairs of `folder`, sorted by name; a `UsageError` lists all that do not fit.

    Where a data set is parted, `split` ("train" or "test") chooses. Layouts are those of
    `tasks.layouts`; in none of them, every image below `folder` is a clean target. No pixel is
    decoded.
    """
    places = pair_folders(folder, task, split)
    if places:
        return _paired(folder, places, task)
    return [PairFiles(name_of(path, folder), None, path) for path in image_paths(folder)]


def read_pair(pair: PairFiles, task: Task, index: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the input, float `[C, h, w]`, and the target, uint8 `[C, scale h, scale w]`.

    An input that the task makes is degraded by what `default_rng([seed, index])` draws, so the
    same numbers give the same input on every machine.
    """
    target = _target(pair, task)
    if pair.input is not None:
        return to_float(_input(pair, task)), target
    if not target.numel():
        raise UsageError(f"{pair.target} is smaller than {task.scale}x{task.scale} pixels")
    generator = np.random.default_rng([seed, index])
    return task.corrupt(to_float(task.reduce(target)), generator), target


def further_targets(pair: PairFiles, task: Task) -> Iterator[Tensor]:
    """Read the targets of a pair beside its first, one at a time, as `read_pair` does."""
    for path in pair.others:
        yield task.align(read_image(path, channels=task.channels))


def training_crops(task: Task, folder: Path, **settings: Any) -> Crops:
    """Read a folder of training pairs or clean images into memory (layouts as `open_pairs`).

    `settings` are `Crops`' patch, batch_size and candidates. A `UsageError` lists every file that
    cannot be read.
    """
    pairs = open_pairs(folder, task, "train")
    if all(pair.input is None for pair in pairs):
        clean = _read_all(pairs, lambda pair: read_image(pair.target, channels=task.channels))
        return crops_of_clean(task, clean, **settings)
    targets = _read_all(pairs, lambda pair: _target(pair, task))
    inputs = _read_all(pairs, lambda pair: _input(pair, task))
    return Crops(task, inputs, targets, degraded=True, **settings)


def _target(pair: PairFiles, task: Task) -> Tensor:
    image = read_image(pair.target, channels=task.channels)
    return task.align(image[..., : image.shape[-1] // 2] if pair.halves else image)


def _input(pair: PairFiles, task: Task) -> Tensor:
    image = read_image(pair.input or pair.target, channels=task.channels)
    return image[..., image.shape[-1] // 2 :] if pair.halves else image


def _paired(folder: Path, places: Sequence[PairFolders], task: Task) -> list[PairFiles]:
    """Pair the files of all `places` by name, or list in one sentence what has no like."""
    pairs: list[PairFiles] = []
    without_target: list[str] = []
    without_input: list[str] = []
    twice: list[str] = []
    for place in places:
        targets, used = place.target_files(), set()
        for name, path in place.input_files().items():
            key = place.target_key(name, task)
            if key in targets:
                used.add(key)
                pairs.append(PairFiles(_in_video(place, name), path, *_divided(targets[key])))
            else:
                without_target.append(_in_video(place, name))
        without_input += [_in_video(place, key) for key in targets if key not in used]
        if not place.alternatives:
            twice += [_in_video(place, key) for key, paths in targets.items() if len(paths) > 1]
    inputs, target_side = places[0].sides
    times = f"{task.scale} times" if task.scale > 1 else "exactly"
    unfit = f"{target_side} is not {times} as large as {inputs} for"
    odd = "no clean left half is exactly as wide as a right one in"
    unlike = [pair.name for pair in pairs if not _sizes_fit(pair, task)]
    wrong = [
        *_listed(without_target, f"{inputs} has no {target_side} for"),
        *_listed(without_input, f"{target_side} has no {inputs} for"),
        *_listed(twice, f"{target_side} has several files for"),
        *_listed(unlike, odd if pairs and pairs[0].halves else unfit),
    ]
    if wrong:
        within = folder if len(places) > 1 else places[0].inputs.parent
        raise UsageError(f"{within} holds images that do not pair: {'; '.join(wrong)}")
    return pairs


def _divided(targets: tuple[Path, ...]) -> tuple[Path, tuple[Path, ...]]:
    return targets[0], targets[1:]


def _in_video(place: PairFolders, name: str) -> str:
    return f"{place.video}/{name}" if place.video else name


def _sizes_fit(pair: PairFiles, task: Task) -> bool:
    if pair.input is None:
        return True
    if pair.halves:
        return image_size(pair.target)[1] % 2 == 0
    wanted = image_size(pair.input)
    return all(_input_size(path, task) == wanted for path in (pair.target, *pair.others))


def _input_size(target: Path, task: Task) -> tuple[int, int]:
    """Return the (height, width) of the input of a target."""
    height, width = task.align(torch.empty(0, *image_size(target))).shape[-2:]
    return height // task.scale, width // task.scale


def _read_all(pairs: Sequence[PairFiles], read: Callable[[PairFiles], Tensor]) -> list[Tensor]:
    images, failures = [], []
    for pair in pairs:
        try:
            images.append(read(pair))
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
