"""Layouts of super-resolution data sets: DIV2K, BasicSR, EDSR-PyTorch and SelfExSR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from thinlens.errors import UsageError
from thinlens.tasks.pairs import PairFolders
from thinlens.tasks.task import Task

REDUCED = ("LR_bicubic", "LR_unknown")
"""Ends of the names of folders that hold one folder of inputs for every scale: X2, X3, X4."""

SPLIT_WORDS = {"train": ("train",), "test": ("valid", "val", "test")}
"""Parts of the names of the folders of a split (DIV2K_valid_HR)."""

DESCRIPTION = (
    "DIV2K's *_HR and *_LR_bicubic/X4, HR and LR_bicubic/X4, GTmod12 and LRbicx4, "
    "SelfExSR's *_SRF_4_HR and *_SRF_4_LR"
)


def find_enlarged(folder: Path, split: str, scale: int) -> list[PairFolders]:
    """Find the folders of inputs and of targets of a super-resolution data set in `folder`.

    Inputs of other scales alone are a `UsageError`.
    """
    for find in (_basicsr, _by_scale, _self_exemplars):
        if pairs := find(folder, split, scale):
            return pairs
    return []


def without_scale(name: str, task: Task) -> str:
    """Return the name of the target of an input: DIV2K names the input of 0001 0001x4."""
    ends = (f"_x{task.scale}", f"x{task.scale}") if task.scale > 1 else ()
    return next((name.removesuffix(end) for end in ends if name.endswith(end)), name)


def _basicsr(folder: Path, split: str, scale: int) -> list[PairFolders]:
    targets, reduced = folder / "GTmod12", sorted(folder.glob("LRbicx*"))
    inputs = folder / f"LRbicx{scale}"
    if not targets.is_dir() or not reduced:
        return []
    if not inputs.is_dir():
        raise _other_scale(folder, reduced[0].name, inputs.name)
    return [PairFolders(inputs, targets, without_scale)]


def _by_scale(folder: Path, split: str, scale: int) -> list[PairFolders]:
    """Find `HR` beside `LR_bicubic/X4`, both with the same stem before them or with none."""
    pairs: list[tuple[str, PairFolders]] = []
    for targets in sorted(x for x in folder.iterdir() if x.is_dir() and x.name.endswith("HR")):
        stem = targets.name.removesuffix("HR")
        reduced = [folder / f"{stem}{end}" for end in REDUCED if (folder / f"{stem}{end}").is_dir()]
        inputs = [path / f"X{scale}" for path in reduced if (path / f"X{scale}").is_dir()]
        if reduced and not inputs:
            raise _other_scale(folder, reduced[0].name, f"{reduced[0].name}/X{scale}")
        if inputs:
            pairs.append((stem, PairFolders(inputs[0], targets, without_scale)))
    of_split = [p for stem, p in pairs if any(word in stem for word in SPLIT_WORDS[split])]
    if len(pairs) > 1 and not of_split:
        names = ", ".join(f"{stem}HR" for stem, _ in pairs)
        raise UsageError(f"{folder} holds {names}: wanted one of them, or one for each split")
    return of_split[:1] or [pair for _, pair in pairs]


def _self_exemplars(folder: Path, split: str, scale: int) -> list[PairFolders]:
    """Find `img_001_SRF_4_HR.png` beside `img_001_SRF_4_LR.png`, also in `image_SRF_4`."""
    marks = (f"_SRF_{scale}_LR", f"_SRF_{scale}_HR")
    for parent in (folder, folder / f"image_SRF_{scale}"):
        if any(parent.glob(f"*{marks[0]}.*")) and any(parent.glob(f"*{marks[1]}.*")):
            return [PairFolders(parent, parent, renamed(*marks), marks=marks)]
    other = next(iter(sorted(folder.glob("*_SRF_*_LR.*"))), None)
    if other is not None:
        raise _other_scale(folder, other.name, f"images *{marks[0]} and *{marks[1]}")
    return []


def renamed(old: str, new: str) -> Callable[[str, Task], str]:
    """Return the rule by which inputs whose names end in `old` have targets that end in `new`."""
    return lambda name, task: name.removesuffix(old) + new


def _other_scale(folder: Path, present: str, wanted: str) -> UsageError:
    return UsageError(f"{folder} holds {present} but no {wanted}: wanted inputs of this scale")
