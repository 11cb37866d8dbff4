"""Describe in one line what was taken for inputs and targets of a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from thinlens.tasks.denoising import Denoising
from thinlens.tasks.pairs import PairFiles
from thinlens.tasks.task import Task


def describe_degradation(task: Task) -> str:
    """Return how a task makes inputs of clean images, for messages.

    >>> from thinlens.tasks import make_task
    >>> describe_degradation(make_task("sr", scale=4))
    'bicubic reduction by 4'
    >>> describe_degradation(make_task("denoise", sigma=15.0))
    'Gaussian noise of sigma 15'
    """
    if task.synthetic:
        return task.synthetic
    if task.scale > 1:
        return f"bicubic reduction by {task.scale}"
    if isinstance(task, Denoising):
        if task.sigma_range:
            least, largest = task.sigma_range
            return f"Gaussian noise of sigma {least:g} to {largest:g}"
        levels = task.sigmas or (task.sigma,)
        return f"Gaussian noise of sigma {' or '.join(f'{level:g}' for level in levels)}"
    return f"the task {task.name}"


def describe_clean(count: int, task: Task) -> str:
    """Return the line for clean images whose inputs the task makes.

    >>> from thinlens.tasks import make_task
    >>> describe_clean(10, make_task("sr"))
    'inputs made by bicubic reduction by 4 of 10 clean images'
    """
    return f"inputs made by {describe_degradation(task)} of {count} clean images"


def describe_pairs(pairs: Sequence[PairFiles], folder: Path, task: Task) -> str:
    """Return what was taken for targets and inputs: folders, or an example where both share one.

    `5 pairs: HR/ with LR_bicubic/X4/`, or `inputs made by ... of 10 clean images`.
    """
    inputs = [pair.input for pair in pairs if pair.input is not None]
    if not inputs:
        return describe_clean(len(pairs), task)
    if pairs[0].side_by_side:
        return f"{len(pairs)} pairs: a target beside its input in each image"
    root = folder.parent if folder.is_file() else folder
    sides = [_common_folder(paths, root) for paths in ([pair.target for pair in pairs], inputs)]
    if sides[0] != sides[1]:
        return f"{len(pairs)} pairs: {sides[0]} with {sides[1]}"
    first = [_relative(path, root) for path in (pairs[0].target, inputs[0])]
    return f"{len(pairs)} pairs, such as {first[0]} with {first[1]}"


def _common_folder(paths: Sequence[Path], root: Path) -> str:
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return f"{_relative(common, root)}/"


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
