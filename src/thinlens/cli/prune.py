"""The verb `prune`: a network becomes thin under a budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinlens.cli.progress import progress
from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError

LEARNING_RATE = 1e-3
"""A third of the rate that rfdn-x4 was trained with: its weights are to be kept, not found."""


@dataclass(frozen=True, kw_only=True)
class Prune(Verb):
    """Keep N of every M weights under a budget, and save what is left as a smaller checkpoint.

    Example: thinlens prune rfdn-x4 --method least-squares --budget 1/4 --out thin
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A folder, or a shipped name."""
    method: Annotated[str, tyro.conf.arg(metavar="one-shot|least-squares|sls")]
    """one-shot keeps the largest weights (and trains on for --steps); least-squares needs no
    training: it chooses by second order and solves for what is left; sls searches how many
    weights each layer keeps while it trains for --steps."""
    budget: Annotated[str, tyro.conf.arg(metavar="1/8|40ms")]
    """The part of the prunable multiply-adds that is kept: 1/8, 0.125 or 12.5%; or the time that
    one input may take in the native engine on this machine: 40ms."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of the thin checkpoint."""
    m: int = 32
    """Consecutive input channels in a group."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Images to calibrate or train on (default: the photographs that come with scikit-image)."""
    steps: int = 0
    """Steps of fine-tuning with the mask fixed (one-shot), or of search and fine-tuning (sls)."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WIDTHxHEIGHT", help_behavior_hint="")] = None
    """Input that a budget in milliseconds is for (default: the one of a 1280x720 output)."""
    threads: int = 2
    """Threads of the engine that a budget in milliseconds is for."""
    seed: int = 0
    """Seed of the calibration or training batches."""
    preset: Annotated[
        str | None, tyro.conf.arg(metavar="paper|code|plus", help_behavior_hint="")
    ] = None
    """Settings of sls: the paper's, its official code's or ours (default: ours)."""

    def run(self) -> Answer:
        from thinlens.api import load, prune, save
        from thinlens.cli.info import DEFAULT_SIZES
        from thinlens.cli.networks import input_shape
        from thinlens.cli.photographs import calibration
        from thinlens.cli.values import size
        from thinlens.report.price import price
        from thinlens.report.tables import count, giga
        from thinlens.sparsity.budget import Budget, milliseconds
        from thinlens.tasks import make_task
        from thinlens.training.loop import Trainer
        from thinlens.training.settings import Settings

        if self.steps and self.method == "least-squares":
            raise UsageError(f"--steps {self.steps}: {self.method} does not train")
        time = milliseconds(self.budget)
        part = Budget.of(self.budget) if time is None else None
        network = load(self.checkpoint)
        task = make_task(**network.task)
        shape = input_shape(task, size(DEFAULT_SIZES["sls"]))
        data = self.data if self.data or not self._needs_data() else calibration(task)
        with progress(f"pruning {self.checkpoint}") as report:
            settings = Settings(steps=self.steps, seed=self.seed, learning_rate=LEARNING_RATE)
            trainer = Trainer(settings, self.out, report)
            thin = prune(
                network.module,
                budget=self.budget,
                method=self.method,
                m=self.m,
                data=data,
                task=task,
                size=size(self.size) if self.size else shape[1:],
                threads=self.threads,
                trainer=trainer,
                preset=self.preset,
            )
        size_in_bytes = save(self.out, thin, model=network.model, task=task)
        priced = price(thin.module, thin.patterns, shape)
        content = {
            "method": self.method,
            "budget": float(part.kept if part else time or 0),
            "budget_base": thin.record["budget_base"],
            "achieved": priced.budget if time is None else thin.record["achieved"],
            "macs": priced.total.macs,
            "params": priced.total.params,
            "bytes": size_in_bytes,
            "seconds": round(thin.record["seconds"], 3),
            "layers": priced.entries(),
        }
        measured = "" if time is None else f", {thin.record['achieved']:.2f} ms as measured"
        sentence = (
            f"{self.out}: {self.method} kept {priced.budget:.2%} of the prunable multiply-adds "
            f"(budget {part or self.budget}{measured}): {giga(priced.total.macs)} GMACs, "
            f"{count(priced.total.params)} parameters, {count(size_in_bytes)} bytes, "
            f"{thin.record['seconds']:.1f} s"
        )
        return Answer(content, (sentence,))

    def _needs_data(self) -> bool:
        return self.steps > 0 or self.method != "one-shot"
