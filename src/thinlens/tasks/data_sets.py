"""How do data sets lie that do not keep inputs and targets in two folders?"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from thinlens.errors import UsageError
from thinlens.tasks.pairs import PairFolders
from thinlens.tasks.task import Task

SIDD_MARKS = ("_NOISY_SRGB_", "_GT_SRGB_")
SIDD_BLOCKS = "ValidationNoisyBlocksSrgb.mat"

KOHLER_MARKS = ("Blurry", "GroundTruth")

RAIN800 = {"train": "training", "test": "test_syn"}
"""The folders of its 700 and of its 100 images (Test100), which are pairs side by side."""


def sidd(place: Path, split: str) -> list[PairFolders]:
    """Find SIDD's sRGB photographs: `Data/SCENE/0001_NOISY_SRGB_010.PNG` beside `_GT_SRGB_`.

    Its validation blocks come as one MATLAB file, which is refused.
    """
    data = place / "Data" if (place / "Data").is_dir() else place
    scenes = sorted({path.parent for mark in SIDD_MARKS for path in data.glob(f"*/*{mark}*")})
    if not scenes and (place / SIDD_BLOCKS).is_file():
        raise UsageError(
            f"{place} holds {SIDD_BLOCKS}: wanted its blocks as images, in input and target side "
            "by side"
        )
    return [
        PairFolders(scene, scene, _noiseless, marks=SIDD_MARKS, video=scene.name)
        for scene in scenes
    ]


def kohler(place: Path, split: str) -> list[PairFolders]:
    """Find Köhler's 4x12 photographs: `Blurry1_12`, in `place` or in a folder of it.

    Their sharp moments are `GroundTruth1_12_1` to `_199`, anywhere below (`Image1/Kernel12`).
    """
    blurry = [*place.glob("Blurry*_*.*"), *place.glob("*/Blurry*_*.*")]
    if not blurry or split != "test":
        return []
    if not any(place.rglob("GroundTruth*_*_*.*")):
        raise UsageError(
            f"{place} holds {blurry[0].stem} but no GroundTruth: wanted "
            "Image1/Kernel1/GroundTruth1_1_1 and so on beside Blurry1_1"
        )
    return [
        PairFolders(
            *(place, place, _shake, _shake_of_moment),
            alternatives=True,
            marks=KOHLER_MARKS,
        )
    ]


def rain800(place: Path, split: str) -> list[PairFolders]:
    """Find Rain800: `training` and `test_syn`, where each file is a pair side by side.

    The clean image is the left one, as RESCAN reads them. `place` holds both, or is one of them.
    """
    root = place.parent if place.name in RAIN800.values() else place
    if not (root / RAIN800["test"]).is_dir():
        return []
    half = place if root != place else root / RAIN800[split]
    if not half.is_dir():
        raise UsageError(f"{root} holds {RAIN800['test']} but no {half.name}: wanted both")
    return [PairFolders(half, half)]


DATA_SETS: dict[str, tuple[Callable[[Path, str], list[PairFolders]], str]] = {
    "denoise": (sidd, "SIDD's Data/SCENE/*_NOISY_SRGB_* and *_GT_SRGB_*"),
    "deblur": (kohler, "Köhler's Blurry1_1 and Image1/Kernel1/GroundTruth1_1_1"),
    "derain": (rain800, "Rain800's training and test_syn (pairs side by side in one image)"),
}
"""By a task's name: what finds its data set, given a folder and "train" or "test", and what the
layout is called."""


def _noiseless(name: str, task: Task) -> str:
    return name.replace(*SIDD_MARKS)


def _shake(name: str, task: Task) -> str:
    return _numbers(r"Blurry(\d+_\d+)", name)


def _shake_of_moment(name: str) -> str:
    return _numbers(r"GroundTruth(\d+_\d+)_\d+", name)


def _numbers(pattern: str, name: str) -> str:
    """Return the numbers of image and shake; the whole name where it is of another form."""
    found = re.fullmatch(pattern, name.rpartition("/")[2])
    return found[1] if found else name
