"""Budgets in milliseconds: predicted against measured latency of pruned networks.

    python benchmarks/milliseconds.py [--fractions 0.7 0.5 0.35] [--method one-shot] [--data DIR]
    python benchmarks/milliseconds.py --method sls --steps 300 --data DIR

Measures the layers of the shipped RFDN on this machine, prunes it to fractions of its dense latency
and measures the pruned networks interleaved. With `--threads 1` that is CPU time, which other
programs hardly change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
import tyro

import thinlens
from thinlens.api import THREADS
from thinlens.benchmark.cases import NativeCase, torch_output
from thinlens.benchmark.interleaved import BenchCase, run_interleaved
from thinlens.cli.values import size
from thinlens.engine.compiled import Compiled
from thinlens.engine.latency import measure_latency_table
from thinlens.methods import METHODS
from thinlens.sparsity.prunable import find_layers
from thinlens.tasks import make_task
from thinlens.tasks.folders import training_crops
from thinlens.tasks.task import Task
from thinlens.training.data import as_batches
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData
from thinlens.training.settings import Settings

LEARNING_RATE = 1e-3
CROPS = {"patch": 32, "batch_size": 2, "candidates": 1}


@dataclass(frozen=True, kw_only=True)
class Milliseconds:
    """Print a line for the dense network and one for each fraction of its latency."""

    fractions: tuple[float, ...] = (0.7, 0.5, 0.35)
    method: str = "one-shot"
    data: Path | None = None
    """Training images, for a method that calibrates."""
    steps: int = 0
    """Training steps, of 2 crops of 32x32."""
    size: str = "320x180"
    threads: int = THREADS
    rounds: int = 20

    def run(self) -> None:
        """Measure layers, prune, and measure networks."""
        torch.set_num_threads(self.threads)
        network = thinlens.load("rfdn-x4")
        module = network.module.eval()
        example = (1, 3, *size(self.size))
        layers = find_layers(module, example)
        table = measure_latency_table(module, layers, example, self.threads)
        dense = table.milliseconds(table.dense)
        trainer = Trainer(Settings(steps=self.steps, learning_rate=LEARNING_RATE))
        batches = self._data(make_task(**network.task))
        networks, predicted = [module], [dense]
        for fraction in self.fractions:
            budget = table.budget(Fraction(fraction * dense))
            method = METHODS[self.method].configure(budget=budget, example=example)
            thin = replace(method, latency=table).run(module, batches, trainer)
            networks.append(thin.module.eval())
            predicted.append(thin.record["achieved"])
        image = torch.rand(example)
        cases = [
            BenchCase("thinlens", "fp32", True, NativeCase(Compiled(x, self.threads), image).run, y)
            for x, y in ((one, torch_output(one, image)) for one in networks)
        ]
        rows = run_interleaved(cases, self.threads, self.rounds)
        for fraction, ms, row in zip((1.0, *self.fractions), predicted, rows, strict=True):
            print(
                f"budget {fraction * dense:7.2f} ms, predicted {ms:7.2f}, measured {row.ms:7.2f}: "
                f"{row.ms / ms - 1:+.1%} of the prediction",
                flush=True,
            )

    def _data(self, task: Task) -> TrainingData:
        if self.steps and self.data:
            return training_crops(task, self.data, **CROPS)
        return as_batches(self.data, task, training=False)


if __name__ == "__main__":
    tyro.cli(Milliseconds).run()
