"""Folder layouts of paired data sets: find the folders of inputs and of targets."""

from __future__ import annotations

import os
from pathlib import Path

from thinlens.errors import UsageError
from thinlens.images.folders import list_folder
from thinlens.images.formats import SUFFIXES
from thinlens.tasks.data_sets import DATA_SETS
from thinlens.tasks.enlarged_sets import DESCRIPTION, find_enlarged, renamed, without_scale
from thinlens.tasks.pairs import NameRule, PairFolders, same_name
from thinlens.tasks.side_words import is_clean_name, is_degraded_name
from thinlens.tasks.similar_images import similar_pair
from thinlens.tasks.task import Task


def _before_underscore(name: str, task: Task) -> str:
    return name.split("_", maxsplit=1)[0]


LAYOUTS: tuple[tuple[str, str, NameRule], ...] = (
    ("LR", "HR", without_scale),
    # BasicSR and traiNNer.
    ("lq", "gt", without_scale),
    ("lq", "hq", without_scale),
    ("input", "target", same_name),
    ("inputs", "targets", same_name),
    ("input", "gt", same_name),
    ("input", "groundtruth", same_name),
    ("blur", "sharp", same_name),
    ("blur", "gt", same_name),
    ("noisy", "clean", same_name),
    ("noisy", "gt", same_name),
    # RESIDE has several hazy images of one target: 1400_1 and 1_1_0.90179 belong to 1400 and 1.
    ("hazy", "gt", _before_underscore),
    ("hazy", "clear", _before_underscore),
    # The first edition of its indoor training set, ITS, and that one's val.
    ("ITS_haze", "ITS_clear", _before_underscore),
    ("haze", "clear", _before_underscore),
    # Rain100L and Rain100H name the input of norain-1 rain-1, and norain-1x2 where it is heavier.
    ("rain", "norain", lambda name, task: f"no{name.removeprefix('no').removesuffix('x2')}"),
)
"""Two folders side by side, inputs, targets, and the rule that matches their files' names. The
folders' names count in any case: `lr` beside `hr`, `GT` beside `LQ`."""

TASK_INPUT_FOLDERS = {
    "sr": ["LR", "lq"],
    "denoise": ["input", "lq"],
    "deblur": ["blur", "lq"],
    "derain": ["rain", "input", "lq"],
    "dehaze": ["hazy", "ITS_haze", "haze", "lq"],
}
"""Names of the folders of inputs in the data sets of a task, by its name."""

SPLITS = {"train": ("train",), "test": ("test", "val")}
"""Names of the folders of a split."""

BLURRY = ("blur_gamma", "blur")
"""GoPro's two kinds of blurry frames. The authors' framework, which SLS used, takes the first."""


def pair_folders(folder: Path, task: Task, split: str) -> list[PairFolders]:
    """Find the folders of pairs in `folder`; none where all its images are clean.

    Recognised are, in `folder`, in its `x<scale>` and in its `train` (or `test`, or `val`): two
    folders of `LAYOUTS`, REDS's `train_blur` and `train_sharp`, GoPro's folders of videos, the
    layouts of `enlarged_sets`, images of one folder that all end in `_LR` or `_HR` (or in other
    names of `LAYOUTS`); in `folder` itself, those of `data_sets`.
    Inputs without any targets, pairs of the other split alone, and folders that look like pairs in
    another layout are a `UsageError`.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: wanted {layout_description(task)}")
    pairs = _find(folder, task, split)
    if not pairs:
        (other,) = SPLITS.keys() - {split}
        other_pairs = _find(folder, task, other)
        if other_pairs:
            raise UsageError(
                f"{folder} holds pairs to {other} with alone ({other_pairs[0].inputs}): "
                f"wanted {' or '.join(SPLITS[split])} beside them, or --data with their own folder"
            )
        _refuse_unknown_pairs(folder, task)
    return pairs


def _refuse_unknown_pairs(folder: Path, task: Task) -> None:
    """Raise `UsageError` for images that look like inputs and targets, in no known layout.

    They would all be taken for clean ones. What looks so: folders side by side, at any depth, and
    files of one name, whose words mark both sides; and one picture in two places.
    """
    listing = list_folder(folder)
    names = sorted({path.parent for path in listing.images})
    for parent in sorted({folder, *(x for path in names for x in _between(path, folder))}):
        sides = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
        degraded = [name for name in sides if is_degraded_name(name)]
        clean = [name for name in sides if is_clean_name(name) and name not in degraded]
        if degraded and clean:
            nested = parent != folder
            shown = f"in {parent.relative_to(folder)}" if nested else "in no known layout"
            hint = f"--data with {parent if nested else 'one of the two folders'}"
            raise UsageError(
                f"{folder} holds {degraded[0]} beside {clean[0]} {shown}: wanted "
                f"{layout_description(task)}; or {hint}"
            )
    pair = similar_pair(folder, listing.images)
    if pair is not None:
        shown = " and ".join(path.relative_to(folder).as_posix() for path in pair)
        raise UsageError(
            f"{folder} holds one picture in {shown}, which looks like pairs in no known layout: "
            f"wanted {layout_description(task)}; or --data with a folder of one kind"
        )


def _between(path: Path, folder: Path) -> list[Path]:
    """Return the folders from `path` up to `folder`, without it; none for links elsewhere."""
    if not path.is_relative_to(folder):
        return []
    return [folder / parent for parent in (path / "_").relative_to(folder).parents]


def layout_description(task: Task) -> str:
    """Return the layouts that a folder for `task` may have, for messages."""
    sides = TASK_INPUT_FOLDERS.get(task.name)
    layouts = [f"{x} and {y} side by side" for x, y, _ in LAYOUTS if not sides or x in sides]
    if task.name == "deblur":
        layouts.insert(0, "REDS's train_blur/VIDEO and train_sharp/VIDEO (or val_ or test_)")
        layouts.insert(0, "GoPro's VIDEO/blur and VIDEO/sharp, itself or in its train or test")
    if task.name == "sr":
        layouts.append(DESCRIPTION)
    if task.name in DATA_SETS:
        layouts.append(DATA_SETS[task.name][1])
    return ", ".join([*layouts, "a list of pairs", "or clean images alone"])


def _find(folder: Path, task: Task, split: str) -> list[PairFolders]:
    parents = (folder, folder / f"x{task.scale}", *(folder / name for name in SPLITS[split]))
    existing = [parent for parent in parents if parent.is_dir()]
    for parent in existing:
        if pairs := _side_by_side(parent):
            return pairs
    for parent in existing:
        if pairs := _by_split(parent, split) or _by_video(parent) or _by_name(parent):
            return pairs
    if task.name == "sr":
        return next(filter(None, (find_enlarged(x, split, task.scale) for x in existing)), [])
    return DATA_SETS[task.name][0](folder, split) if task.name in DATA_SETS else []


def _side_by_side(parent: Path) -> list[PairFolders]:
    folders = {path.name.lower(): path for path in parent.iterdir() if path.is_dir()}
    layouts = [
        (folders[x.lower()], y, folders.get(y.lower()), rule)
        for x, y, rule in LAYOUTS
        if x.lower() in folders
    ]
    for inputs, _, targets, rule in layouts:
        if targets is not None:
            return [PairFolders(inputs, targets, rule)]
    for inputs, wanted, _, _ in layouts:
        raise UsageError(f"{parent} holds {inputs.name} but no {wanted}: wanted both")
    return []


def _by_name(parent: Path) -> list[PairFolders]:
    """Find pairs in one folder, all of whose images end in `_LR` and `_HR`, or other sides."""
    stems = [path.stem for path in parent.iterdir() if path.suffix.lower() in SUFFIXES]
    sides = [(f"_{x}", f"_{y}") for x, y, _ in LAYOUTS]
    for marks in [*sides, *((x.lower(), y.lower()) for x, y in sides)]:
        kinds = {next((mark for mark in marks if stem.endswith(mark)), None) for stem in stems}
        if kinds == set(marks):
            dotted = (f"{marks[0]}.", f"{marks[1]}.")
            return [PairFolders(parent, parent, renamed(*marks), marks=dotted)]
    return []


def _by_split(parent: Path, split: str) -> list[PairFolders]:
    """Find REDS's layout: `train_blur` and `train_sharp`, or `val_` or `test_`."""
    ends = [path for path in parent.iterdir() if path.is_dir() and path.name.endswith("_blur")]
    stems = sorted(path.name.removesuffix("_blur") for path in ends)
    if not stems:
        return []
    chosen = [stem for stem in SPLITS[split] if stem in stems] or stems
    if len(chosen) > 1 and chosen == stems:
        raise UsageError(f"{parent} holds {', '.join(f'{s}_blur' for s in stems)}: wanted one")
    stem = chosen[0]
    if not (parent / f"{stem}_sharp").is_dir():
        raise UsageError(f"{parent} holds {stem}_blur but no {stem}_sharp: wanted both")
    return [PairFolders(parent / f"{stem}_blur", parent / f"{stem}_sharp")]


def _by_video(parent: Path) -> list[PairFolders]:
    """Find GoPro's layout: a folder for every video that holds its blurry and sharp frames."""
    folders = sorted(path for path in parent.iterdir() if path.is_dir())
    blurry = [path for path in folders if any((path / kind).is_dir() for kind in BLURRY)]
    sharp = [path for path in folders if (path / "sharp").is_dir()]
    lacking = [path.name for path in folders if (path in blurry) != (path in sharp)]
    if not blurry:
        return []
    if lacking:
        raise UsageError(
            f"{parent} holds videos without sharp or without blurry frames: {', '.join(lacking)}"
        )
    common = [kind for kind in BLURRY if all((video / kind).is_dir() for video in blurry)]
    if not common:
        raise UsageError(f"{parent} holds {' and '.join(BLURRY)}, but neither for all videos")
    return [PairFolders(v / common[0], v / "sharp", video=v.name) for v in blurry]
