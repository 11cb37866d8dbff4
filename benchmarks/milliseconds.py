"""Does a network pruned to a time take that time?

    python benchmarks/milliseconds.py [--parts 0.7 0.5 0.35] [--method one-shot] [--data DIR]
    python benchmarks/milliseconds.py --method sls --steps 300 --data DIR

Prices the shipped RFDN on this machine, prunes it to parts of its dense time and lets the thin
networks run in turns. Prints what was asked, what was promised and what it takes. With
`--threads 1` that is the CPU's time, in which other programs hardly count.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
import tyro

import thinlens
from thinlens.api import THREADS
from thinlens.bench.cases import Ours, reference
from thinlens.bench.interleaved import Entrant, compete
from thinlens.engine.compiled import Compiled
from thinlens.engine.latency import price_layers
from thinlens.experiments.values import size
from thinlens.methods import METHODS
from thinlens.sparsity.prunable import find_layers
from thinlens.tasks import make_task
from thinlens.tasks.folders import training_crops
from thinlens.tasks.task import Task
from thinlens.training.data import feed
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData
from thinlens.training.settings import Settings

LEARNING_RATE = 1e-3
CROPS = {"patch": 32, "batch_size": 2, "candidates": 1}


@dataclass(frozen=True, kw_only=True)
class Milliseconds:
    """Print a line for the dense network and one for each part of its time."""

    parts: tuple[float, ...] = (0.7, 0.5, 0.35)
    method: str = "one-shot"
    data: Path | None = None
    """Training images, for a method that calibrates."""
    steps: int = 0
    """Training steps, of 2 crops of 32x32."""
    size: str = "320x180"
    threads: int = THREADS
    rounds: int = 20

    def run(self) -> None:
        """Price, prune and measure."""
        torch.set_num_threads(self.threads)
        network = thinlens.load("rfdn-x4")
        module = network.module.eval()
        example = (1, 3, *size(self.size))
        prices = price_layers(module, find_layers(module, example), example, self.threads)
        dense = prices.milliseconds(prices.dense)
        trainer = Trainer(Settings(steps=self.steps, learning_rate=LEARNING_RATE))
        fed = self._data(make_task(**network.task))
        networks, promised = [module], [dense]
        for part in self.parts:
            budget = prices.budget(Fraction(part * dense))
            chosen = METHODS[self.method].preset(
                None, budget=budget, example=example, prices=prices
            )
            thin = chosen.run(module, fed, trainer)
            networks.append(thin.module.eval())
            promised.append(thin.record["achieved"])
        image = torch.rand(example)
        entrants = [
            Entrant("thinlens", "fp32", True, Ours(Compiled(x, self.threads), image).run, y)
            for x, y in ((one, reference(one, image)) for one in networks)
        ]
        rows = compete(entrants, self.threads, self.rounds)
        for part, promise, row in zip((1.0, *self.parts), promised, rows, strict=True):
            print(
                f"asked {part * dense:7.2f} ms, promised {promise:7.2f}, takes {row.ms:7.2f}: "
                f"{row.ms / promise - 1:+.1%} of the promise",
                flush=True,
            )

    def _data(self, task: Task) -> TrainingData:
        if self.steps and self.data:
            return training_crops(task, self.data, **CROPS)
        return feed(self.data, task, training=False)


if __name__ == "__main__":
    tyro.cli(Milliseconds).run()
