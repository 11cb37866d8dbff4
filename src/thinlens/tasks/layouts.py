"""In which folders of a data set do inputs and their targets lie?"""

from __future__ import annotations

from pathlib import Path

from thinlens.errors import UsageError
from thinlens.tasks.data_sets import DATA_SETS
from thinlens.tasks.pairs import NameRule, PairFolders, same_name
from thinlens.tasks.task import Task


def _before_underscore(name: str, task: Task) -> str:
    return name.split("_", maxsplit=1)[0]


LAYOUTS: tuple[tuple[str, str, NameRule], ...] = (
    # DIV2K calls the input of 0001 0001x4.
    ("LR", "HR", lambda name, task: name.removesuffix(f"x{task.scale}")),
    ("input", "target", same_name),
    ("blur", "sharp", same_name),
    # RESIDE makes several hazy images of one: 1400_1 and 1_1_0.90179 belong to 1400 and 1.
    ("hazy", "gt", _before_underscore),
    ("hazy", "clear", _before_underscore),
    # The first edition of its indoor training set, ITS, and that one's val.
    ("ITS_haze", "ITS_clear", _before_underscore),
    ("haze", "clear", _before_underscore),
    # Rain100L and Rain100H call the input of norain-1 rain-1, and norain-1x2 where it is heavier.
    ("rain", "norain", lambda name, task: f"no{name.removeprefix('no').removesuffix('x2')}"),
)
"""Two folders side by side: of the inputs and of the targets."""

SIDES = {
    "sr": ["LR"],
    "denoise": ["input"],
    "deblur": ["blur"],
    "derain": ["rain", "input"],
    "dehaze": ["hazy", "ITS_haze", "haze"],
}
"""The folders of inputs that a task's data sets have, by the task's name."""

SPLITS = {"train": ("train",), "test": ("test", "val")}
"""What data sets call their parts, by what we do with them."""

BLURRY = ("blur_gamma", "blur")
"""GoPro's two kinds of blurry frames. The authors' framework, which SLS used, takes the first."""


def pair_folders(folder: Path, task: Task, split: str) -> list[PairFolders]:
    """Find where the pairs of `folder` lie; nothing is found where all its images are clean.

    Looked for are, in `folder`, in its `x<scale>` and in its `train` (or `test`, or `val`): two
    folders of `LAYOUTS`, REDS's `train_blur` and `train_sharp`, GoPro's folders of videos; in
    `folder` itself, what `data_sets` knows.
    Inputs without any targets, or pairs of the other split alone, are a `UsageError`.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: wanted {expected(task)}")
    found = _found(folder, task, split)
    if not found:
        (other,) = SPLITS.keys() - {split}
        elsewhere = _found(folder, task, other)
        if elsewhere:
            raise UsageError(
                f"{folder} holds pairs to {other} with alone ({elsewhere[0].inputs}): "
                f"wanted {' or '.join(SPLITS[split])} beside them, or --data with their own folder"
            )
    return found


def expected(task: Task) -> str:
    """Say in which layout a folder for `task` is wanted."""
    sides = SIDES.get(task.name)
    known = [f"{x} and {y} side by side" for x, y, _ in LAYOUTS if not sides or x in sides]
    if task.name == "deblur":
        known.insert(0, "REDS's train_blur/VIDEO and train_sharp/VIDEO (or val_ or test_)")
        known.insert(0, "GoPro's VIDEO/blur and VIDEO/sharp, itself or in its train or test")
    if task.name in DATA_SETS:
        known.append(DATA_SETS[task.name][1])
    return ", ".join([*known, "or clean images alone"])


def _found(folder: Path, task: Task, split: str) -> list[PairFolders]:
    places = (folder, folder / f"x{task.scale}", *(folder / part for part in SPLITS[split]))
    there = [place for place in places if place.is_dir()]
    for place in there:
        if found := _side_by_side(place):
            return found
    for place in there:
        if found := _by_split(place, split) or _by_video(place):
            return found
    return DATA_SETS[task.name][0](folder, split) if task.name in DATA_SETS else []


def _side_by_side(place: Path) -> list[PairFolders]:
    there = [layout for layout in LAYOUTS if (place / layout[0]).is_dir()]
    for inputs, targets, rule in there:
        if (place / targets).is_dir():
            return [PairFolders(place / inputs, place / targets, rule)]
    for inputs, targets, _ in there:
        raise UsageError(f"{place} holds {inputs} but no {targets}: wanted both")
    return []


def _by_split(place: Path, split: str) -> list[PairFolders]:
    """Find REDS's layout: `train_blur` and `train_sharp`, or `val_` or `test_`."""
    ends = [path for path in place.iterdir() if path.is_dir() and path.name.endswith("_blur")]
    stems = sorted(path.name.removesuffix("_blur") for path in ends)
    if not stems:
        return []
    wanted = [stem for stem in SPLITS[split] if stem in stems] or stems
    if len(wanted) > 1 and wanted == stems:
        raise UsageError(f"{place} holds {', '.join(f'{s}_blur' for s in stems)}: wanted one")
    stem = wanted[0]
    if not (place / f"{stem}_sharp").is_dir():
        raise UsageError(f"{place} holds {stem}_blur but no {stem}_sharp: wanted both")
    return [PairFolders(place / f"{stem}_blur", place / f"{stem}_sharp")]


def _by_video(place: Path) -> list[PairFolders]:
    """Find GoPro's layout: a folder for every video that holds its blurry and sharp frames."""
    folders = sorted(path for path in place.iterdir() if path.is_dir())
    blurry = [path for path in folders if any((path / kind).is_dir() for kind in BLURRY)]
    sharp = [path for path in folders if (path / "sharp").is_dir()]
    lacking = [path.name for path in folders if (path in blurry) != (path in sharp)]
    if not blurry:
        return []
    if lacking:
        raise UsageError(
            f"{place} holds videos without sharp or without blurry frames: {', '.join(lacking)}"
        )
    common = [kind for kind in BLURRY if all((video / kind).is_dir() for video in blurry)]
    if not common:
        raise UsageError(f"{place} holds {' and '.join(BLURRY)}, but neither for all videos")
    return [PairFolders(v / common[0], v / "sharp", video=v.name) for v in blurry]
