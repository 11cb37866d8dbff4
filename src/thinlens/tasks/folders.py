"""Image pairs of a folder: match inputs with targets by name, check their sizes, read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.folders import image_paths
from thinlens.images.pixels import to_float
from thinlens.images.reading import image_size, read_image
from thinlens.tasks.crops import Crops, crops_from_clean
from thinlens.tasks.description import describe_pairs
from thinlens.tasks.frame_averages import consecutive_frames
from thinlens.tasks.layouts import SPLITS, pair_folders
from thinlens.tasks.pair_lists import find_pair_list, read_pair_list
from thinlens.tasks.pairs import PairFiles, PairFolders, name_of
from thinlens.tasks.task import Task

MAX_LISTED_FILES = 5
"""Files that an error message names; further ones are counted."""


def open_pairs(folder: Path, task: Task, split: str = "test") -> list[PairFiles]:
    """List the pairs of `folder`, sorted by name; a `UsageError` lists all that do not fit.

    `split` ("train" or "test") chooses the part of a data set that has both. Layouts are those of
    `tasks.layouts`; without one of them, every image below `folder` is a clean target. A file in
    place of a folder lists pairs (`tasks.pair_lists`), as one in the folder may. What looks like
    pairs in no known layout is a `UsageError`.
    """
    path = folder if folder.is_file() else find_pair_list(folder, SPLITS[split])
    if path is not None:
        return _fitting(path, read_pair_list(path, task.scale), task)
    places = pair_folders(folder, task, split)
    if places:
        return _paired(folder, places, task)
    return [PairFiles(name_of(path, folder), None, path) for path in image_paths(folder)]


def read_pair(pair: PairFiles, task: Task, index: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the input, float `[C, h, w]`, and the target, uint8 `[C, scale h, scale w]`.

    An input that the task synthesises is degraded by draws of `default_rng([seed, index])`, so the
    same numbers give the same input on every machine.
    """
    target = _target(pair, task)
    if pair.input is not None:
        return to_float(_input(pair, task)), target
    if not target.numel():
        raise UsageError(f"{pair.target} is smaller than {task.scale}x{task.scale} pixels")
    generator = np.random.default_rng([seed, index])
    return task.corrupt(to_float(task.downscale(target)), generator), target


def alternative_targets(pair: PairFiles, task: Task) -> Iterator[Tensor]:
    """Read the targets of a pair besides its first, one at a time, as `read_pair` does."""
    for path in pair.alternatives:
        yield task.align(read_image(path, channels=task.channels))


def training_crops(task: Task, folder: Path, **settings: Any) -> Crops:
    """Read a folder of training pairs or clean images into memory (layouts as `open_pairs`).

    `settings` are patch, batch_size and candidates of `Crops`. A `UsageError` lists every file that
    cannot be read.
    """
    pairs = open_pairs(folder, task, "train")
    settings = {"source": describe_pairs(pairs, folder, task), **settings}
    if all(pair.input is None for pair in pairs):
        clean = _read_all(pairs, lambda pair: read_image(pair.target, channels=task.channels))
        runs = consecutive_frames([pair.target for pair in pairs])
        return crops_from_clean(task, clean, sequences=runs, **settings)
    targets = _read_all(pairs, lambda pair: _target(pair, task))
    inputs = _read_all(pairs, lambda pair: _input(pair, task))
    runs = consecutive_frames([pair.target for pair in pairs])
    return Crops.fitting(task, inputs, targets, degraded=True, sequences=runs, **settings)


def _target(pair: PairFiles, task: Task) -> Tensor:
    image = read_image(pair.target, channels=task.channels)
    return task.align(image[..., : image.shape[-1] // 2] if pair.side_by_side else image)


def _input(pair: PairFiles, task: Task) -> Tensor:
    image = read_image(pair.input or pair.target, channels=task.channels)
    return image[..., image.shape[-1] // 2 :] if pair.side_by_side else image


def _paired(folder: Path, places: Sequence[PairFolders], task: Task) -> list[PairFiles]:
    """Pair the files of `places` by name; a `UsageError` lists those without a partner."""
    pairs: list[PairFiles] = []
    without_target: list[str] = []
    without_input: list[str] = []
    duplicates: list[str] = []
    for place in places:
        targets, used = place.target_files(), set()
        for name, path in place.input_files().items():
            key = place.target_key(name, task)
            if key in targets:
                used.add(key)
                first, *rest = targets[key]
                pairs.append(PairFiles(_in_video(place, name), path, first, tuple(rest)))
            else:
                without_target.append(_in_video(place, name))
        without_input += [_in_video(place, key) for key in targets if key not in used]
        if not place.alternatives:
            duplicates += [
                _in_video(place, key) for key, paths in targets.items() if len(paths) > 1
            ]
    inputs, target_side = places[0].sides
    times = f"{task.scale} times" if task.scale > 1 else "exactly"
    wrong_size = f"{target_side} is not {times} as large as {inputs} for"
    odd_width = "no clean left half is exactly as wide as a right one in"
    mismatched = [pair.name for pair in pairs if not _sizes_fit(pair, task)]
    errors = [
        *_listed(without_target, f"{inputs} has no {target_side} for"),
        *_listed(without_input, f"{target_side} has no {inputs} for"),
        *_listed(duplicates, f"{target_side} has several files for"),
        *_listed(mismatched, odd_width if pairs and pairs[0].side_by_side else wrong_size),
    ]
    if errors:
        within = folder if len(places) > 1 else places[0].inputs.parent
        raise UsageError(f"{within} holds images that do not pair: {'; '.join(errors)}")
    return pairs


def _fitting(path: Path, pairs: list[PairFiles], task: Task) -> list[PairFiles]:
    """Return the pairs of a list; a `UsageError` names those whose sizes do not fit."""
    mismatched = [pair.target.name for pair in pairs if not _sizes_fit(pair, task)]
    if mismatched:
        times = f"{task.scale} times" if task.scale > 1 else "exactly"
        raise UsageError(
            f"{path} lists targets that are not {times} as large as their inputs: "
            f"{_shortened(mismatched)}"
        )
    return pairs


def _in_video(place: PairFolders, name: str) -> str:
    return f"{place.video}/{name}" if place.video else name


def _sizes_fit(pair: PairFiles, task: Task) -> bool:
    if pair.input is None:
        return True
    if pair.side_by_side:
        return image_size(pair.target)[1] % 2 == 0
    size = image_size(pair.input)
    return all(_input_size(path, task) == size for path in (pair.target, *pair.alternatives))


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


def _listed(names: list[str], sentence: str) -> list[str]:
    return [f"{sentence} {_shortened(names)}"] if names else []


def _shortened(names: list[str]) -> str:
    more = len(names) - MAX_LISTED_FILES
    return ", ".join(names[:MAX_LISTED_FILES]) + (f" and {more} more" if more > 0 else "")
