"""Search histories with annealed and with constant lambda (SLS, Fig. S1).

Searches the shipped RFDN twice, with lambda annealed and with lambda at the annealed run's last
value throughout, and draws both histories. An interrupted run resumes.

    python benchmarks/sls_annealing.py --data BSDS500/train --steps 600 --out runs/annealing
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import thinlens
from thinlens.report.search_plots import draw_searches
from thinlens.tasks import make_task
from thinlens.tasks.folders import training_crops
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

LEARNING_RATE = 1e-3
SIZE = (180, 320)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Draw search.png in OUT: task loss, cost, lambda and mask flips of both runs."""

    data: Path
    """Training images."""
    out: Path
    steps: int = 600
    budget: str = "1/8"
    seed: int = 0
    patch: int = 48
    batch: int = 2
    precision: str = "bf16"
    preset: str = "plus"
    """plus, from the dense network without distillation, or paper: equation 7."""

    def record(self, name: str, **options: Any) -> dict[str, Any]:
        """Search once; `options` are settings of `sls`."""
        network = thinlens.load("rfdn-x4")
        settings = Settings(
            steps=self.steps,
            seed=self.seed,
            learning_rate=LEARNING_RATE,
            precision=self.precision,
        )
        task = make_task(**network.task)
        crops = training_crops(
            task, self.data, patch=self.patch, batch_size=self.batch, candidates=1
        )
        trainer = Trainer(settings, self.out / name)
        thin = thinlens.prune(
            network.module,
            budget=self.budget,
            method="sls",
            data=crops,
            size=SIZE,
            trainer=trainer,
            preset=self.preset,
            least_squares=False,
            start_budget_factor=0.0,
            distill_weight=0.0,
            **options,
        )
        return thin.record

    def run(self) -> None:
        """Search twice and draw."""
        annealed = self.record("annealed")
        constant = self.record("constant", alpha=1.0, penalty=annealed["final_lambda"])
        runs = {"annealed": annealed, "lambda at its last value": constant}
        for name, record in runs.items():
            losses = [row["task_loss"] for row in record["history"]]
            print(
                f"{name}: lambda {record['final_lambda']:.4g}, N fixed at step "
                f"{record['frozen_step']}, task loss at most {max(losses):.4f}, "
                f"at the end {losses[-1]:.4f}"
            )
        title = f"SLS on RFDN x4, budget {self.budget}, {self.steps} steps, seed {self.seed}"
        draw_searches(self.out / "search.png", runs, title)


if __name__ == "__main__":
    tyro.cli(Comparison).run()
