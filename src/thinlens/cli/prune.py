"""The verb `prune`: a network becomes thin under a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli.progress import progress
from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.report.price import Price

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
    """one-shot keeps the largest weights; least-squares chooses by second order and solves for what
    is left, so that it needs no training; both train on for --steps if there are any. sls searches
    how many weights each layer keeps while it trains for --steps."""
    budget: Annotated[str, tyro.conf.arg(metavar="1/8")]
    """The part of the prunable multiply-adds that is kept: 1/8, 0.125 or 12.5%."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of the thin checkpoint."""
    m: int = 32
    """Consecutive input channels in a group."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Images to calibrate or train on (default: the photographs that come with scikit-image)."""
    steps: int = 0
    """Steps of fine-tuning with the mask fixed, or of search and fine-tuning (sls)."""
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
        from thinlens.report.price import BUDGET_BASE, price
        from thinlens.report.tables import count, giga
        from thinlens.sparsity.budget import Budget
        from thinlens.tasks import make_task
        from thinlens.training.loop import Trainer
        from thinlens.training.settings import Settings

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
            )
        size_in_bytes = save(self.out, thin, model=network.model, task=task)
        priced = price(thin.module, thin.patterns, shape)
        content = {
            "method": self.method,
            "budget": float(budget.kept),
            "budget_base": BUDGET_BASE,
            "achieved": priced.budget,
            "macs": priced.total.macs,
            "params": priced.total.params,
            "bytes": size_in_bytes,
            "seconds": round(thin.record["seconds"], 3),
            "layers": priced.entries(),
        }
        sentence = (
            f"{self.out}: {self.method} kept {priced.budget:.2%} of the prunable multiply-adds "
            f"(budget {budget}): {giga(priced.total.macs)} GMACs, "
            f"{count(priced.total.params)} parameters, {count(size_in_bytes)} bytes, "
            f"{thin.record['seconds']:.1f} s"
        )
        return Answer(content, (sentence, *self._drawn(priced, thin.record)))

    def _drawn(self, priced: Price, record: Mapping[str, Any]) -> list[str]:
        """Draw a search into the folder, and say so; other methods have nothing to draw."""
        from thinlens.report.plots import layers_picture
        from thinlens.report.search import course_picture, rank_correlation

        if not record.get("history"):
            return []
        title = f"{self.method} {self.budget}, {self.steps} steps"
        try:
            layers_picture(self.out / "layers.png", priced, title)
            course_picture(self.out / "search.png", {self.method: record}, title)
        except UsageError as missing:
            return [f"no pictures: {missing}"]
        found = rank_correlation(priced)
        trend = "" if found is None else f"; rank correlation of N and multiply-adds {found:+.2f}"
        return [f"{self.out / 'layers.png'}: N of every layer; search.png: the search{trend}"]

    def _needs_data(self) -> bool:
        return self.steps > 0 or self.method != "one-shot"
