"""Layouts of SIDD, Köhler's photographs and Rain800, which mix inputs and targets in folders."""

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
"""Infixes of the file names of inputs and targets."""

RAIN800 = {"train": "training", "test": "test_syn"}
"""The folders of its 700 and of its 100 images (Test100), which are pairs side by side."""


def find_sidd(folder: Path, split: str) -> list[PairFolders]:
    """Find SIDD's sRGB photographs: `Data/SCENE/0001_NOISY_SRGB_010.PNG` beside `_GT_SRGB_`.

    Its validation blocks come as one MATLAB file, which is refused.
    """
    data = folder / "Data" if (folder / "Data").is_dir() else folder
    scenes = sorted({path.parent for mark in SIDD_MARKS for path in data.glob(f"*/*{mark}*")})
    if not scenes and (folder / SIDD_BLOCKS).is_file():
        raise UsageError(
            f"{folder} holds {SIDD_BLOCKS}: wanted its blocks as images, in input and target side "
            "by side"
        )
    return [
        PairFolders(scene, scene, _noiseless, marks=SIDD_MARKS, video=scene.name)
        for scene in scenes
    ]


def find_kohler(folder: Path, split: str) -> list[PairFolders]:
    """Find Köhler's 4x12 photographs: `Blurry1_12`, in `folder` or in a folder of it.

    Their sharp images are `GroundTruth1_12_1` to `_199`, anywhere below (`Image1/Kernel12`).
    """
    blurry = [*folder.glob("Blurry*_*.*"), *folder.glob("*/Blurry*_*.*")]
    if not blurry or split != "test":
        return []
    if not any(folder.rglob("GroundTruth*_*_*.*")):
        raise UsageError(
            f"{folder} holds {blurry[0].stem} but no GroundTruth: wanted "
            "Image1/Kernel1/GroundTruth1_1_1 and so on beside Blurry1_1"
        )
    return [
        PairFolders(
            *(folder, folder, _shake, _shake_of_target),
            alternatives=True,
            marks=KOHLER_MARKS,
        )
    ]


def find_rain800(folder: Path, split: str) -> list[PairFolders]:
    """Find Rain800: `training` and `test_syn`, where each file is a pair side by side.

    The clean image is the left one, as RESCAN reads them. `folder` holds both, or is one of them.
    """
    root = folder.parent if folder.name in RAIN800.values() else folder
    if not (root / RAIN800["test"]).is_dir():
        return []
    half = folder if root != folder else root / RAIN800[split]
    if not half.is_dir():
        raise UsageError(f"{root} holds {RAIN800['test']} but no {half.name}: wanted both")
    return [PairFolders(half, half)]


DATA_SETS: dict[str, tuple[Callable[[Path, str], list[PairFolders]], str]] = {
    "denoise": (find_sidd, "SIDD's Data/SCENE/*_NOISY_SRGB_* and *_GT_SRGB_*"),
    "deblur": (find_kohler, "Köhler's Blurry1_1 and Image1/Kernel1/GroundTruth1_1_1"),
    "derain": (find_rain800, "Rain800's training and test_syn (pairs side by side in one image)"),
}
"""By the name of a task: the function that finds its data set in a folder, for "train" or "test",
and the description of the layout."""


def _noiseless(name: str, task: Task) -> str:
    return name.replace(*SIDD_MARKS)


def _shake(name: str, task: Task) -> str:
    return _numbers(r"Blurry(\d+_\d+)", name)


def _shake_of_target(name: str) -> str:
    return _numbers(r"GroundTruth(\d+_\d+)_\d+", name)


def _numbers(pattern: str, name: str) -> str:
    """Return the numbers of image and shake; the whole name where it does not match."""
    match = re.fullmatch(pattern, name.rpartition("/")[2])
    return match[1] if match else name
