"""Pairs of image files: an input and its target, matched by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thinlens.images.folders import image_paths
from thinlens.tasks.task import Task

NameRule = Callable[[str, Task], str]
"""Maps the name of an input to the key of its target."""


def same_name(name: str, task: Task) -> str:
    """Return the name of a target that has the name of its input."""
    return name


@dataclass(frozen=True)
class PairFiles:
    """A target and, unless the task synthesises it, its input."""

    name: str
    """The input's path relative to its folder, without suffix."""
    input: Path | None
    """None: the task degrades the target."""
    target: Path
    alternatives: tuple[Path, ...] = ()
    """Further targets, where a data set has several for one input: the best score counts."""

    @property
    def side_by_side(self) -> bool:
        """Whether one file holds both: the target on the left, the input on the right."""
        return self.input == self.target


@dataclass(frozen=True)
class PairFolders:
    """A folder of inputs and the folder of their targets, whose files belong together by name.

    Names are paths relative to these folders, without suffix.
    """

    inputs: Path
    targets: Path
    target_key: NameRule = same_name
    key: Callable[[str], str] = str
    """Maps the name of a target to its key."""
    alternatives: bool = False
    """Whether several targets of one key are alternatives, not an error."""
    marks: tuple[str, str] = ("", "")
    """Infixes of the file names of inputs and of targets, where a folder holds both."""
    video: str = ""
    """The video or scene, where a data set has such folders for each: a prefix of names."""

    @property
    def sides(self) -> tuple[str, str]:
        """Names of the inputs and of the targets for messages."""
        return self.marks[0] or self.inputs.name, self.marks[1] or self.targets.name

    def input_files(self) -> dict[str, Path]:
        """Return the inputs by name, sorted."""
        return {name_of(path, self.inputs): path for path in _marked(self.inputs, self.marks[0])}

    def target_files(self) -> dict[str, tuple[Path, ...]]:
        """Return the targets by key, sorted."""
        paths: dict[str, tuple[Path, ...]] = {}
        for path in _marked(self.targets, self.marks[1]):
            key = self.key(name_of(path, self.targets))
            paths[key] = (*paths.get(key, ()), path)
        return paths


def name_of(path: Path, folder: Path) -> str:
    """Return the path of an image relative to a folder, without suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def _marked(folder: Path, mark: str) -> list[Path]:
    return [path for path in image_paths(folder) if mark in path.name]
