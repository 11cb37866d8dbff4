"""PSNR of pruning without any training, on real networks and test sets.

Prints the tables of docs/results.md. Needs THINLENS_DATA. Calibration images are training images:
BSDS500 `train` for super-resolution, Train400 for denoising.

    python benchmarks/training_free.py dncnn-17 rfdn-aim rfdn-x4
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

import thinlens
from thinlens.checkpoints.pretrained import import_weights
from thinlens.images.folders import image_paths
from thinlens.images.reading import read_image
from thinlens.tasks import make_task
from thinlens.tasks.crops import Crops, crops_from_clean
from thinlens.tasks.task import Task

METHODS = {
    "one-shot": ("one-shot", {}),
    "least squares, magnitude": (
        "least-squares",
        {"allocation": "uniform", "importance": "magnitude"},
    ),
    "least squares, second-order": (
        "least-squares",
        {"allocation": "uniform", "importance": "second-order"},
    ),
    "least squares, joint": ("least-squares", {"allocation": "uniform"}),
    "least squares, joint, knapsack (the default)": ("least-squares", {}),
}


CALIBRATION_IMAGES = 100
"""The number of training images that are read, the first ones by name."""


@dataclass(frozen=True)
class Case:
    """A network with its test sets."""

    network: nn.Module
    task: Task
    size: tuple[int, int]
    """Height and width of the input for which costs are counted."""
    group_sizes: tuple[int, ...]
    budgets: tuple[str, ...]
    calibration: Path
    tests: tuple[Path, ...]


def case(name: str, data: Path) -> Case:
    """Return the case called `name`."""
    weights, sr = data / "weights", data / "sr_test"
    if name == "dncnn-17":
        network = import_weights(weights / "DnCNN_KAIR" / "dncnn_25.pth", name)
        denoise = make_task("denoise", channels=1, sigma=25.0)
        calibration, tests = data / "train" / "Train400", (data / "denoise_test" / "Set12",)
        return Case(network, denoise, (720, 1280), (32,), ("1/2", "1/4", "1/8"), calibration, tests)
    group_sizes: tuple[int, ...] = (32,)
    budgets: tuple[str, ...] = ("1/2", "1/4", "1/8", "1/16")
    if name == "rfdn-aim":
        network = import_weights(weights / "RFDN_AIM" / "RFDN_AIM.pth", name)
        group_sizes, budgets = (10, 25), budgets[:2]
    else:
        network = thinlens.load(name).module
    tests = tuple(sr / test / "x4" for test in ("Set5", "Set14"))
    calibration = data / "train" / "BSDS500" / "train"
    return Case(
        network, make_task("sr", scale=4), (180, 320), group_sizes, budgets, calibration, tests
    )


def rows(chosen: Case) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a table: M, budget, method, seconds, then PSNR by test set."""
    chosen.network.eval()
    yield "-", "1", "dense", "-", *_psnr(chosen, chosen.network)
    crops = calibration(chosen)
    for m in chosen.group_sizes:
        for budget in chosen.budgets:
            for label, (method, options) in METHODS.items():
                thin = thinlens.prune(
                    chosen.network,
                    budget=budget,
                    method=method,
                    m=m,
                    data=crops,
                    size=chosen.size,
                    **options,
                )
                seconds = f"{thin.record['seconds']:.1f}"
                yield str(m), budget, label, seconds, *_psnr(chosen, thin.module)


def calibration(chosen: Case) -> Crops:
    """Cut large crops, because padding at borders biases calibration."""
    paths = image_paths(chosen.calibration)[:CALIBRATION_IMAGES]
    clean = [read_image(path, channels=chosen.task.channels) for path in paths]
    return crops_from_clean(chosen.task, clean, patch=80, batch_size=13)


def _psnr(chosen: Case, network: nn.Module) -> Iterator[str]:
    for test in chosen.tests:
        yield f"{thinlens.evaluate(network, test, task=chosen.task).psnr:.2f}"


def main() -> None:
    """Print a Markdown table for each network named on the command line."""
    data = Path(os.environ["THINLENS_DATA"])
    for name in sys.argv[1:] or ["dncnn-17", "rfdn-aim", "rfdn-x4"]:
        chosen = case(name, data)
        tests = [test.parent.name if test.name == "x4" else test.name for test in chosen.tests]
        print(f"\n### {name}\n")
        print("| M | budget | method | seconds |", " | ".join(tests), "|")
        print("|---|---|---|---|" + "---|" * len(tests))
        for row in rows(chosen):
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
