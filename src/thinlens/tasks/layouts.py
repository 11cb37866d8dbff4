"""Folder layouts of paired data sets: find the folders of inputs and of targets."""

from __future__ import annotations

import re
from pathlib import Path

from thinlens.errors import UsageError
from thinlens.tasks.data_sets import DATA_SETS
from thinlens.tasks.enlarged_sets import DESCRIPTION, find_enlarged, without_scale
from thinlens.tasks.pairs import NameRule, PairFolders, same_name
from thinlens.tasks.task import Task


def _before_underscore(name: str, task: Task) -> str:
    return name.split("_", maxsplit=1)[0]


LAYOUTS: tuple[tuple[str, str, NameRule], ...] = (
    ("LR", "HR", without_scale),
    # BasicSR and traiNNer.
    ("lq", "gt", without_scale),
    ("LQ", "GT", without_scale),
    ("input", "target", same_name),
    ("blur", "sharp", same_name),
    # RESIDE has several hazy images of one target: 1400_1 and 1_1_0.90179 belong to 1400 and 1.
    ("hazy", "gt", _before_underscore),
    ("hazy", "clear", _before_underscore),
    # The first edition of its indoor training set, ITS, and that one's val.
    ("ITS_haze", "ITS_clear", _before_underscore),
    ("haze", "clear", _before_underscore),
    # Rain100L and Rain100H name the input of norain-1 rain-1, and norain-1x2 where it is heavier.
    ("rain", "norain", lambda name, task: f"no{name.removeprefix('no').removesuffix('x2')}"),
)
"""Two folders side by side: inputs, targets, and the rule that matches their names."""

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

DEGRADED_NAME = re.compile(r"(^|[_\W])(lr|lq|low|lowres|degraded|noisy|lrbic)(?![a-z])", re.I)
CLEAN_NAME = re.compile(r"(^|[_\W])(hr|gt|hq|high|highres|clean|gtmod)(?![a-z])", re.I)
"""Names of folders that hold inputs and targets, by the words in them."""

BLURRY = ("blur_gamma", "blur")
"""GoPro's two kinds of blurry frames. The authors' framework, which SLS used, takes the first."""


def pair_folders(folder: Path, task: Task, split: str) -> list[PairFolders]:
    """Find the folders of pairs in `folder`; none where all its images are clean.

    Recognised are, in `folder`, in its `x<scale>` and in its `train` (or `test`, or `val`): two
    folders of `LAYOUTS`, REDS's `train_blur` and `train_sharp`, GoPro's folders of videos, the
    layouts of `enlarged_sets`; in `folder` itself, those of `data_sets`.
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
    """Raise `UsageError` for folders that look like inputs and targets, in no known layout.

    All their images would be taken for clean ones.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    degraded = [name for name in names if DEGRADED_NAME.search(name)]
    clean = [name for name in names if CLEAN_NAME.search(name) and name not in degraded]
    if degraded and clean:
        raise UsageError(
            f"{folder} holds {degraded[0]} beside {clean[0]}, which is no known layout: wanted "
            f"{layout_description(task)}; or --data with one of the two folders"
        )


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
    return ", ".join([*layouts, "or clean images alone"])


def _find(folder: Path, task: Task, split: str) -> list[PairFolders]:
    parents = (folder, folder / f"x{task.scale}", *(folder / name for name in SPLITS[split]))
    existing = [parent for parent in parents if parent.is_dir()]
    for parent in existing:
        if pairs := _side_by_side(parent):
            return pairs
    for parent in existing:
        if pairs := _by_split(parent, split) or _by_video(parent):
            return pairs
    if task.name == "sr":
        return next(filter(None, (find_enlarged(x, split, task.scale) for x in existing)), [])
    return DATA_SETS[task.name][0](folder, split) if task.name in DATA_SETS else []


def _side_by_side(parent: Path) -> list[PairFolders]:
    layouts = [layout for layout in LAYOUTS if (parent / layout[0]).is_dir()]
    for inputs, targets, rule in layouts:
        if (parent / targets).is_dir():
            return [PairFolders(parent / inputs, parent / targets, rule)]
    for inputs, targets, _ in layouts:
        raise UsageError(f"{parent} holds {inputs} but no {targets}: wanted both")
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
