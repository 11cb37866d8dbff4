"""Training in bf16 (autocast) against fp32: PSNR on the same batches, for several seeds.

All networks are evaluated in fp32 on folders of test pairs. An interrupted run resumes; a finished
one is only evaluated again.

    python benchmarks/bf16_training.py --data BSDS500 --tests Set5/x4 Set14/x4 --out runs/bf16
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import thinlens
from thinlens.models import create
from thinlens.tasks import make_task
from thinlens.tasks.crops import Crops
from thinlens.tasks.folders import training_crops
from thinlens.training.loop import Trainer
from thinlens.training.objective import PlainObjective
from thinlens.training.settings import Settings

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Print a JSON line for each run, and the mean of bf16 - fp32 for each test folder."""

    data: Path
    """Training images."""
    tests: tuple[Path, ...]
    out: Path
    model: str = "rfdn"
    steps: int = 2000
    seeds: int = 3
    patch: int = 32
    batch: int = 4

    def run(self) -> None:
        """Train and evaluate every pair."""
        task = make_task("sr", scale=4)
        crops = training_crops(
            task, self.data, patch=self.patch, batch_size=self.batch, candidates=1
        )
        scores = {p: [self.train(p, seed, crops) for seed in range(self.seeds)] for p in PRECISIONS}
        for test in self.tests:
            pairs = zip(*(scores[p] for p in PRECISIONS), strict=True)
            gaps = [bf16[str(test)] - fp32[str(test)] for fp32, bf16 in pairs]
            print(f"{test}: {statistics.mean(gaps):+.4f} dB", [round(gap, 4) for gap in gaps])

    def train(self, precision: str, seed: int, crops: Crops) -> dict[str, float]:
        """Train once and return the PSNR on every test folder."""
        torch.manual_seed(seed)
        module = create(self.model, scale=4)
        settings = Settings(
            steps=self.steps, seed=seed, precision=precision, learning_rate=3e-3, save_every=100
        )
        Trainer(settings, self.out / f"{precision}-{seed}").fit(PlainObjective(module), crops)
        scores = {
            str(test): thinlens.evaluate(module, test, task=crops.task).psnr for test in self.tests
        }
        print(json.dumps({"precision": precision, "seed": seed, **scores}), flush=True)
        return scores


if __name__ == "__main__":
    tyro.cli(Comparison).run()
