"""Calibration and test photographs: standard benchmarks, or images of scikit-image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.images.folders import image_paths
from thinlens.images.reading import read_image
from thinlens.images.writing import write_png
from thinlens.models import image_channels
from thinlens.tasks.crops import Crops, crops_from_clean
from thinlens.tasks.input_crops import InputCrops, select_inputs
from thinlens.tasks.task import Task
from thinlens.training.data import CALIBRATION_CROPS
from thinlens.training.folder_data import input_crops

CALIBRATION_FILES = ("motorcycle_left.png", "rocket.jpg", "camera.png", "grass.png", "brick.png")
TEST_FILES = ("astronaut.png", "chelsea.png", "coffee.png")
"""Files inside scikit-image's wheel; the two sets share no scene."""

MAX_CALIBRATION_IMAGES = 20
"""Images of a folder that are read for calibration; methods use about 13 crops of them."""


def skimage_photographs(names: tuple[str, ...]) -> list[Path]:
    """Return the paths of photographs in scikit-image's wheel, without importing it."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "no images are given: wanted --data DIR, or scikit-image and its photographs "
            "(pip install 'thinlens[demo]')"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"this scikit-image lacks {missing[0]}: wanted --data DIR")
    return [folder / name for name in names]


def skimage_calibration(task: Task) -> Crops:
    """Return calibration crops of scikit-image's photographs."""
    return _crops(task, skimage_photographs(CALIBRATION_FILES))


def skimage_inputs(module: nn.Module, crops: Mapping[str, Any]) -> InputCrops:
    """Return crops of scikit-image's photographs as inputs of `module`, of any package."""
    paths = skimage_photographs(CALIBRATION_FILES)
    kind = "photographs of scikit-image"
    channels = image_channels(module)
    return input_crops(lambda side: select_inputs(paths, kind, side), module, channels, crops)


@dataclass(frozen=True)
class ImageSources:
    """Photographs for calibration, and others for evaluation."""

    crops: Crops
    tests: dict[str, Path]
    """Folders of HR and LR by the name of the set."""
    described: str
    """A sentence for the report."""


def skimage_sources(task: Task, out: Path) -> ImageSources:
    """Return scikit-image's photographs; degraded test pairs are written to `out`."""
    paths = skimage_photographs(TEST_FILES)
    images = {path.stem: read_image(path, channels=task.channels) for path in paths}
    write_pairs(task, images, out)
    return ImageSources(
        skimage_calibration(task),
        {"photographs": out},
        f"Calibrated on {len(CALIBRATION_FILES)} and judged by {len(TEST_FILES)} other "
        "photographs of those that come with scikit-image.",
    )


def write_pairs(task: Task, images: Mapping[str, Tensor], out: Path) -> None:
    """Write uint8 images as targets and what the task makes of them as inputs, by their names.

    They are the only images of `out` afterwards.
    """
    for folder in (out / "HR", out / "LR"):
        for path in folder.glob("*.png"):
            if path.stem not in images:
                path.unlink()
    for name, image in images.items():
        target = task.align(image)
        write_png(out / "HR" / f"{name}.png", target)
        write_png(out / "LR" / f"{name}.png", task.downscale(target))


def benchmark_sources(task: Task, data: Path) -> ImageSources:
    """Return Set5 and Set14 below `data` as tests, BSDS500's training images for calibration."""
    train = data / "train" / "BSDS500" / "train"
    tests = {name: data / "sr_test" / name / f"x{task.scale}" for name in ("Set5", "Set14")}
    for folder in (train, *tests.values()):
        if not folder.is_dir():
            raise UsageError(f"{folder} is missing: wanted a data folder laid out as in README.md")
    paths = image_paths(train)
    spread = paths[:: max(1, len(paths) // MAX_CALIBRATION_IMAGES)]
    return ImageSources(
        _crops(task, spread[:MAX_CALIBRATION_IMAGES]),
        tests,
        f"Calibrated on {MAX_CALIBRATION_IMAGES} images of BSDS500 train, judged by Set5 and "
        "Set14.",
    )


def _crops(task: Task, paths: Sequence[Path]) -> Crops:
    images = [read_image(path, channels=task.channels) for path in paths]
    return crops_from_clean(task, images, **CALIBRATION_CROPS)
