"""Networks of a report from folders of runs, and the images on which they are compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from thinlens.adaptive.bundle import Bundle
from thinlens.adaptive.bundle_format import BUNDLE_FILE, is_bundle, load_bundle
from thinlens.api import load_checkpoint
from thinlens.checkpoints.config_file import read_config
from thinlens.checkpoints.format import CONFIG_FILE, Checkpoint
from thinlens.checkpoints.shipped import list_shipped, resolve
from thinlens.errors import UsageError
from thinlens.experiments.photographs import skimage_sources
from thinlens.files import file_hash
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


@dataclass(frozen=True)
class NamedBundle:
    """A bundle and its name in a report."""

    name: str
    bundle: Bundle
    folder: Path

    @property
    def sha256(self) -> str:
        """Of the file that names its networks by their fingerprints."""
        return file_hash(self.folder / BUNDLE_FILE)


@dataclass(frozen=True)
class ReportRuns:
    """The networks of a report, the dense one first, and bundles of such networks."""

    networks: Sequence[NamedRun]
    bundles: Sequence[NamedBundle]


def read_runs(runs: Sequence[str | Path]) -> ReportRuns:
    """Load the checkpoints and the bundles of `runs`.

    A run is a checkpoint folder, a shipped name, a file of weights, a bundle, or a folder with
    checkpoints below it. Where none but bundles are named, the networks of the first are compared.
    Raises `UsageError` where a run is none or is not finished, where no network is dense or several
    are, or where they are not networks of one task.
    """
    read = [one for run in runs for one in _read(run)]
    bundles = _named_apart([one for one in read if isinstance(one, NamedBundle)])
    named = _named_apart([one for one in read if isinstance(one, NamedRun)])
    if not named and bundles:
        named = [NamedRun(name, one) for name, one in bundles[0].bundle.checkpoints.items()]
    every = [run.name for run in named] + [one.name for one in bundles]
    for name, count in Counter(every).items():
        if count > 1:
            raise UsageError(f"{count} runs are called {name}: wanted each once, by another name")
    dense = [run for run in named if run.is_dense]
    if len(dense) != 1:
        names = ", ".join(run.name for run in dense) or "none"
        raise UsageError(
            f"a report compares thin networks with one dense network, and {names} is dense: wanted "
            "the dense one and thin ones of it, such as thinlens report rfdn-x4 thin"
        )
    tasks = [(run.name, run.checkpoint.task) for run in named]
    for one in bundles:
        tasks += [(one.name, checkpoint.task) for checkpoint in one.bundle.checkpoints.values()]
    for name, task in tasks:
        if task != dense[0].checkpoint.task:
            raise UsageError(f"{name} and {dense[0].name} have different tasks")
    return ReportRuns([*dense, *(run for run in named if not run.is_dense)], bundles)


Named = TypeVar("Named", NamedRun, NamedBundle)


def _named_apart(runs: Sequence[Named]) -> list[Named]:
    """Return the runs, those of one name under the paths of their folders."""
    counts = Counter(run.name for run in runs)
    return [
        replace(run, name=run.folder.as_posix()) if counts[run.name] > 1 and run.folder else run
        for run in runs
    ]


def _read(run: str | Path) -> list[NamedRun | NamedBundle]:
    path = Path(run)
    if is_bundle(path):
        return [NamedBundle(path.name, load_bundle(path), path)]
    if not path.is_dir() or (path / CONFIG_FILE).is_file():
        return [_named(str(run), path.name)]
    bundles = sorted(file.parent for file in path.rglob(BUNDLE_FILE))
    folders = sorted(file.parent for file in path.rglob(CONFIG_FILE))
    folders = [x for x in folders if not any(bundle in x.parents for bundle in bundles)]
    if not folders and not bundles:
        raise UsageError(f"{run} is not finished, or is no run: no {CONFIG_FILE} is in it")
    named = [_named(str(folder), folder.relative_to(path).as_posix()) for folder in folders]
    return [
        *named,
        *(NamedBundle(x.relative_to(path).as_posix(), load_bundle(x), x) for x in bundles),
    ]


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
