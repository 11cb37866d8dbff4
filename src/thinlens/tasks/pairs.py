"""What is a pair of images, and what says that two files are one?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thinlens.images.reading import image_paths
from thinlens.tasks.task import Task

NameRule = Callable[[str, Task], str]
"""The key of an input's target, given the input's name."""


def same_name(name: str, task: Task) -> str:
    """Look for a target that is called as its input is."""
    return name


@dataclass(frozen=True)
class PairFiles:
    """A target and, unless the task makes it, its input."""

    name: str
    """The input's path relative to its folder, without suffix."""
    input: Path | None
    """None: the task degrades the target."""
    target: Path
    others: tuple[Path, ...] = ()
    """Further targets, where a data set has several for one input: the nearest one counts."""

    @property
    def halves(self) -> bool:
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
    """Makes a target's key of its name."""
    alternatives: bool = False
    """Whether targets of one key are several for one input, and no mistake."""
    marks: tuple[str, str] = ("", "")
    """What file names of inputs and of targets contain, where a folder holds more than one kind."""
    video: str = ""
    """Where a data set has such folders for every video or scene: its name, which names begin
    with."""

    @property
    def sides(self) -> tuple[str, str]:
        """What to call inputs and targets."""
        return self.marks[0] or self.inputs.name, self.marks[1] or self.targets.name

    def input_files(self) -> dict[str, Path]:
        """Return the inputs by name, sorted."""
        return {name_of(path, self.inputs): path for path in _marked(self.inputs, self.marks[0])}

    def target_files(self) -> dict[str, tuple[Path, ...]]:
        """Return the targets by key, sorted."""
        found: dict[str, tuple[Path, ...]] = {}
        for path in _marked(self.targets, self.marks[1]):
            key = self.key(name_of(path, self.targets))
            found[key] = (*found.get(key, ()), path)
        return found


def name_of(path: Path, folder: Path) -> str:
    """Return what an image is called within a folder."""
    return path.relative_to(folder).with_suffix("").as_posix()


def _marked(folder: Path, mark: str) -> list[Path]:
    return [path for path in image_paths(folder) if mark in path.name]
