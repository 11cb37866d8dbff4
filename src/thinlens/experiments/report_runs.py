"""Networks of a report from folders of runs, and the images on which they are compared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thinlens.api import load_checkpoint
from thinlens.checkpoints.config_file import read_config
from thinlens.checkpoints.format import CONFIG_FILE, Checkpoint
from thinlens.checkpoints.shipped import list_shipped, resolve
from thinlens.errors import UsageError
from thinlens.experiments.photographs import skimage_sources
from thinlens.tasks.task import Task

SCALE_FOLDER = re.compile(r"x\d")
"""A folder of one scale of a test set, as Set5/x4: the set's name stands above it."""


@dataclass(frozen=True)
class NamedRun:
    """A checkpoint and its name in a report."""

    name: str
    checkpoint: Checkpoint
    sha256: str = ""
    """Of the tensors; empty for a file of weights."""
    folder: Path | None = None

    @property
    def is_dense(self) -> bool:
        """Whether nothing of the network was pruned."""
        return not self.checkpoint.patterns and not self.checkpoint.resized


def read_runs(runs: Sequence[str | Path]) -> list[NamedRun]:
    """Load the checkpoints of `runs`, the dense one first.

    A run is a checkpoint folder, a shipped name, a file of weights, or a folder with checkpoints
    below it. Raises `UsageError` where one is none or is not finished, where no network is dense or
    several are, or where they are not networks of one task.
    """
    named = [one for run in runs for one in _read(run)]
    dense = [run for run in named if run.is_dense]
    if len(dense) != 1:
        names = ", ".join(run.name for run in dense) or "none"
        raise UsageError(
            f"a report compares thin networks with one dense network, and {names} is dense: wanted "
            "the dense one and thin ones of it, such as thinlens report rfdn-x4 thin"
        )
    for run in named:
        if run.checkpoint.task != dense[0].checkpoint.task:
            raise UsageError(f"{run.name} and {dense[0].name} have different tasks")
    return [*dense, *(run for run in named if not run.is_dense)]


def _read(run: str | Path) -> list[NamedRun]:
    path = Path(run)
    if not path.is_dir() or (path / CONFIG_FILE).is_file():
        return [_named(str(run), path.name)]
    below = sorted(file.parent for file in path.rglob(CONFIG_FILE))
    if not below:
        raise UsageError(f"{run} is not finished, or is no run: no {CONFIG_FILE} is in it")
    return [_named(str(folder), folder.relative_to(path).as_posix()) for folder in below]


def _named(source: str, name: str) -> NamedRun:
    checkpoint = load_checkpoint(source)
    if source not in list_shipped() and not Path(source).is_dir():
        return NamedRun(name, checkpoint)
    folder = resolve(source)
    return NamedRun(name, checkpoint, read_config(folder / CONFIG_FILE).sha256, folder)


def report_tests(task: Task, data: str | Path | None, beside: Path) -> Mapping[str, Path]:
    """Return test folders by name: `data`, or for super-resolution scikit-image's photographs.

    The photographs are degraded in the folder `beside`.
    """
    if data is not None:
        folder = Path(data)
        *_, above, name = folder.resolve().parts
        return {f"{above} {name}" if SCALE_FOLDER.fullmatch(name) else name: folder}
    if task.scale == 1:
        raise UsageError(f"a report on {task.name} needs test images: wanted --data DIR")
    return skimage_sources(task, beside).tests
