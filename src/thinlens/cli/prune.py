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

BASES = {
    "prunable_macs": "the prunable multiply-adds",
    "macs": "all multiply-adds",
    "params": "all parameters",
}
"""What a budget is a part of, in words."""


@dataclass(frozen=True, kw_only=True)
class Prune(Verb):
    """Keep N of every M weights under a budget, and save what is left as a smaller checkpoint.

    Example: thinlens prune rfdn-x4 --method least-squares --budget 1/4 --out thin
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A folder, or a shipped name."""
    method: Annotated[str, tyro.conf.arg(metavar="one-shot|least-squares|sls|sr-ste|filter")]
    """one-shot keeps the largest weights (and trains on for --steps); least-squares needs no
    training: it chooses by second order and solves for what is left; sls searches how many
    weights each layer keeps while it trains for --steps; sr-ste keeps the largest weights of every
    step while it trains; filter removes whole channels (and trains on for --steps)."""
    budget: Annotated[str, tyro.conf.arg(metavar="1/8")]
    """The part that is kept, of the prunable multiply-adds (filter: of --metric): 1/8, 0.125 or
    12.5%."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of the thin checkpoint."""
    m: int = 32
    """Consecutive input channels in a group."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Images to calibrate or train on (default: the photographs that come with scikit-image)."""
    steps: int = 0
    """Steps of fine-tuning with the mask fixed (one-shot), or of search and fine-tuning (sls)."""
    seed: int = 0
    """Seed of the calibration or training batches."""
    preset: Annotated[
        str | None, tyro.conf.arg(metavar="paper|code|plus", help_behavior_hint="")
    ] = None
    """Settings of sls, sr-ste and filter: the paper's, its official code's (sls alone) or ours
    (default: ours)."""
    metric: Annotated[str | None, tyro.conf.arg(metavar="macs|params", help_behavior_hint="")] = (
        None
    )
    """What the budget of filter is a part of, over the whole network (default: macs)."""

    def run(self) -> Answer:
        from thinlens.api import load, prune, save
        from thinlens.cli.info import DEFAULT_SIZES
        from thinlens.cli.networks import input_shape
        from thinlens.cli.photographs import calibration
        from thinlens.cli.values import size
        from thinlens.report.price import price
        from thinlens.report.tables import count, giga
        from thinlens.sparsity.budget import Budget
        from thinlens.tasks import make_task
        from thinlens.training.loop import Trainer
        from thinlens.training.settings import Settings

        if self.steps and self.method == "least-squares":
            raise UsageError(f"--steps {self.steps}: {self.method} does not train")
        budget = Budget.of(self.budget)
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
                size=shape[1:],
                trainer=trainer,
                preset=self.preset,
                **({} if self.metric is None else {"metric": self.metric}),
            )
        size_in_bytes = save(self.out, thin, model=network.model, task=task)
        priced = price(thin.module, thin.patterns, shape)
        content = {
            "method": self.method,
            "budget": float(budget.kept),
            "budget_base": thin.record["budget_base"],
            "achieved": thin.record["achieved"],
            "macs": priced.total.macs,
            "params": priced.total.params,
            "bytes": size_in_bytes,
            "seconds": round(thin.record["seconds"], 3),
            "layers": priced.entries(),
        }
        base = BASES[thin.record["budget_base"]]
        sentence = (
            f"{self.out}: {self.method} kept {thin.record['achieved']:.2%} of {base} "
            f"(budget {budget}): {giga(priced.total.macs)} GMACs, "
            f"{count(priced.total.params)} parameters, {count(size_in_bytes)} bytes, "
            f"{thin.record['seconds']:.1f} s"
        )
        return Answer(content, (sentence,))

    def _needs_data(self) -> bool:
        return self.steps > 0 or self.method not in ("one-shot", "filter")
