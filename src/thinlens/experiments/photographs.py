"""Which real photographs are at hand where nobody has given any?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from thinlens.errors import UsageError
from thinlens.images.reading import image_paths, read_image
from thinlens.images.writing import write_png
from thinlens.tasks.crops import Crops, crops_of_clean
from thinlens.tasks.task import Task
from thinlens.training.data import CALIBRATION

TO_CALIBRATE = ("motorcycle_left.png", "rocket.jpg", "camera.png", "grass.png", "brick.png")
TO_TEST = ("astronaut.png", "chelsea.png", "coffee.png")
"""Files inside scikit-image's wheel; no scene is in both."""

MOST_TO_CALIBRATE = 20
"""Images of a large folder that are read to calibrate on; methods use some 13 crops of them."""


def photographs(names: tuple[str, ...]) -> list[Path]:
    """Return the paths of photographs in scikit-image's wheel, without importing it."""
    found = find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise UsageError(
            "no images are given: wanted --data DIR, or scikit-image and its photographs "
            "(pip install 'thinlens[demo]')"
        )
    folder = Path(found.submodule_search_locations[0]) / "data"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"this scikit-image lacks {missing[0]}: wanted --data DIR")
    return [folder / name for name in names]


def calibration(task: Task) -> Crops:
    """Return crops to calibrate on from scikit-image's photographs."""
    return _crops(task, photographs(TO_CALIBRATE))


@dataclass(frozen=True)
class Sources:
    """Real photographs to calibrate on and others to judge by."""

    crops: Crops
    tests: dict[str, Path]
    """Folders of HR and LR by the name of the set."""
    described: str
    """A sentence for the report."""


def own_sources(task: Task, out: Path) -> Sources:
    """Take scikit-image's photographs; the test pairs that the task makes go to `out`."""
    for path in photographs(TO_TEST):
        target = task.align(read_image(path, channels=task.channels))
        write_png(out / "HR" / f"{path.stem}.png", target)
        write_png(out / "LR" / f"{path.stem}.png", task.reduce(target))
    return Sources(
        calibration(task),
        {"photographs": out},
        f"Calibrated on {len(TO_CALIBRATE)} and judged by {len(TO_TEST)} other photographs of "
        "those that come with scikit-image.",
    )


def standard_sources(task: Task, data: Path) -> Sources:
    """Take Set5 and Set14 below `data` as tests, and BSDS500's training images to calibrate on."""
    train = data / "train" / "BSDS500" / "train"
    tests = {name: data / "sr_test" / name / f"x{task.scale}" for name in ("Set5", "Set14")}
    for folder in (train, *tests.values()):
        if not folder.is_dir():
            raise UsageError(f"{folder} is missing: wanted a data folder laid out as in README.md")
    chosen = image_paths(train)[:: max(1, len(image_paths(train)) // MOST_TO_CALIBRATE)]
    return Sources(
        _crops(task, chosen[:MOST_TO_CALIBRATE]),
        tests,
        f"Calibrated on {MOST_TO_CALIBRATE} images of BSDS500 train, judged by Set5 and Set14.",
    )


def _crops(task: Task, paths: Sequence[Path]) -> Crops:
    images = [read_image(path, channels=task.channels) for path in paths]
    return crops_of_clean(task, images, **CALIBRATION)
