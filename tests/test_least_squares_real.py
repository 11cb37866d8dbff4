"""Does least squares keep what it promises on real networks and real images?"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from thinlens.checkpoints.pretrained import import_weights
from thinlens.engine.compilation import compile
from thinlens.images.pixels import to_uint8
from thinlens.methods.least_squares.method import LeastSquares
from thinlens.sparsity.budget import Budget
from thinlens.tasks import make_task
from thinlens.tasks.folders import open_pairs, read_pair, training_crops
from thinlens.tasks.metrics import psnr
from thinlens.tasks.task import Task
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

pytestmark = [pytest.mark.needs_data, pytest.mark.slow]

QUICK = {"pixels": 50_000, "positions": 6_000}
"""Less calibration than the default, which loses about 0.05 dB more."""


@torch.no_grad()
def mean_psnr(network: nn.Module, folder: Path, task: Task, images: int) -> float:
    pairs, run = open_pairs(folder, task)[:images], compile(network)
    values = []
    for index, pair in enumerate(pairs):
        image, target = read_pair(pair, task, index, 0)
        restored = to_uint8(run(image[None])[0])
        values.append(psnr(restored, target, task.protocol))
    return sum(values) / len(values)


@pytest.mark.parametrize(("budget", "most"), [("1/4", 0.4), ("1/8", 1.0)])
def test_dncnn_loses_little_without_training(data: Path, budget: str, most: float) -> None:
    """Issue 2: on Set12 at sigma 25, M = 32, at most 0.4 and 1.0 dB."""
    task = make_task("denoise", channels=1, sigma=25.0)
    dense = import_weights(data / "weights/DnCNN_KAIR/dncnn_25.pth", "dncnn-17").eval()
    crops = training_crops(task, data / "train/Train400", patch=80, batch_size=13)
    method = LeastSquares(budget=Budget.parse(budget), example=(1, 1, 64, 64), **QUICK)
    thin = method.run(dense, crops, Trainer(Settings(steps=0)))
    assert thin.record["achieved"] == Fraction(budget)
    before, after = (
        mean_psnr(network, data / "denoise_test/Set12", task, images=3)
        for network in (dense, thin.module)
    )
    assert before - after <= most


def test_second_order_beats_magnitude_on_a_real_sr_network(data: Path) -> None:
    """RFDN-AIM at 1/4 and M = 10 on Set5; one-shot, at 15.7 dB, is out of the question."""
    task = make_task("sr", scale=4)
    dense = import_weights(data / "weights/RFDN_AIM/RFDN_AIM.pth", "rfdn-aim", scale=4).eval()
    crops = training_crops(task, data / "train/BSDS500/test", patch=80, batch_size=13)
    values = {}
    for importance in ("joint", "second-order", "magnitude"):
        settings = {"budget": Budget.parse("1/4"), "example": (1, 3, 180, 320), "m": 10, **QUICK}
        method = LeastSquares(importance=importance, **settings)  # type: ignore[arg-type]
        thin = method.run(dense, crops, Trainer(Settings(steps=0))).module
        values[importance] = mean_psnr(thin, data / "sr_test/Set5/x4", task, images=5)
    assert values["joint"] > values["second-order"] > values["magnitude"] > 29
