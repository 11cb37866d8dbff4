"""Networks of the demo: dense, and pruned by two methods, with metrics and latencies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.api import prune, save
from thinlens.benchmark.interleaved import BenchCase, run_interleaved
from thinlens.checkpoints.format import Checkpoint
from thinlens.engine.compilation import compile as compile_module
from thinlens.engine.native import native
from thinlens.experiments.networks import HD_SIZE, input_shape
from thinlens.experiments.photographs import ImageSources
from thinlens.images.resize import bicubic_upsample
from thinlens.progress import Progress, no_progress
from thinlens.restoration.evaluation import Evaluation, evaluate
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.summary import CostSummary, summarize
from thinlens.tasks.task import Task

Variant = tuple[str, str]
"""A method and a budget."""

LIVE: Variant = ("least-squares", "1/4")
"""The network that is pruned first."""

VARIANTS: tuple[Variant, ...] = (
    ("one-shot", "1/2"),
    ("least-squares", "1/2"),
    ("least-squares", "1/8"),
)
"""The networks that are pruned after it; least squares measures sensitivities once for all."""

TIMED_SIZE = (90, 160)
"""Height and width of the timed input: half of those for which costs are counted, to save time."""

TIMED_ROUNDS = 7
"""Timed runs of each network, of which the median is reported."""


@dataclass(frozen=True)
class DemoRow:
    """One network of the demo, or bicubic enlargement, which has no costs."""

    method: str
    """bicubic, dense or the name of a method."""
    budget: str
    """The fraction to keep; empty for what is not pruned."""
    run: Callable[[Tensor], Tensor]
    """Restores a batch of images `[B, C, h, w]`, in the engine where it was built."""
    costs: CostSummary | None = None
    bytes: int | None = None
    seconds: float | None = None
    """Duration of pruning."""
    ms: float | None = None
    """Milliseconds for one input of `TIMED_SIZE` in the native engine; None without it."""
    scores: dict[str, Evaluation] = field(default_factory=dict)
    """Metrics by test set."""

    @property
    def name(self) -> str:
        """The method and its budget."""
        return f"{self.method} {self.budget}".strip()

    def as_json(self) -> dict[str, Any]:
        """Return the row as `demo --json` prints it."""
        total = self.costs.total if self.costs else None
        return {
            "method": self.method,
            "budget": float(Budget.parse(self.budget).kept) if self.budget else None,
            "achieved": self.costs.budget if self.costs else None,
            "macs": total.macs if total else None,
            "params": total.params if total else None,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "ms": self.ms,
            "scores": {
                name: {"psnr": score.psnr, "ssim": score.ssim}
                for name, score in self.scores.items()
            },
        }


def unpruned_rows(
    dense: Checkpoint, task: Task, tests: Mapping[str, Path], report: Progress
) -> list[DemoRow]:
    """Return bicubic enlargement and the dense network, evaluated."""
    costs = summarize(dense.module, {}, input_shape(task, HD_SIZE))
    engine = compile_module(dense.module)
    rows = [
        DemoRow("bicubic", "", lambda image: bicubic_upsample(image, task.scale)),
        DemoRow("dense", "", engine, costs, dense.bytes),
    ]
    return [evaluated(row, task, tests, report) for row in rows]


def pruned_row(
    dense: Checkpoint,
    task: Task,
    sources: ImageSources,
    folder: Path,
    variant: Variant,
    report: Progress,
) -> DemoRow:
    """Prune `dense`, save it below `folder`, and return its row, evaluated."""
    method, budget = variant
    shape = input_shape(task, HD_SIZE)
    thin = prune(
        dense.module,
        budget=budget,
        method=method,
        data=sources.crops,
        size=shape[1:],
        progress=report,
    )
    path = folder / f"{method}-{budget.replace('/', '-of-')}"
    packed = save(path, thin, model=dense.model, task=task)
    costs, seconds = summarize(thin.module, thin.patterns, shape), thin.record["seconds"]
    engine = compile_module(thin)
    row = DemoRow(method, budget, engine, costs, packed, seconds)
    return evaluated(row, task, sources.tests, report)


def evaluated(
    row: DemoRow, task: Task, tests: Mapping[str, Path], report: Progress = no_progress
) -> DemoRow:
    """Return the row with its metrics on all test sets."""
    scores = {
        name: evaluate(row.run, task, folder, progress=report) for name, folder in tests.items()
    }
    return replace(row, scores=scores)


def measure_latency(
    rows: Sequence[DemoRow], module: nn.Module, channels: int
) -> tuple[list[DemoRow], float | None]:
    """Return the rows with their milliseconds, and those of torch for the dense `module`.

    All are measured interleaved.
    """
    networks = [row for row in rows if row.costs is not None]
    if native() is None or not networks:
        return list(rows), None
    image = torch.rand(1, channels, *TIMED_SIZE, generator=torch.Generator().manual_seed(0))
    dense = torch.inference_mode()(module)
    runs: list[Callable[[], Tensor]] = [partial(dense, image)]
    runs += [partial(row.run, image) for row in networks]
    expected = runs[0]()
    cases = [BenchCase(str(i), "fp32", False, run, expected) for i, run in enumerate(runs)]
    torch_row, *results = run_interleaved(cases, torch.get_num_threads(), TIMED_ROUNDS)
    times = {row.name: result.ms for row, result in zip(networks, results, strict=True)}
    return [replace(row, ms=times.get(row.name)) for row in rows], torch_row.ms


def by_cost(rows: Sequence[DemoRow]) -> list[DemoRow]:
    """Return the rows in the order of a table: bicubic, then the most expensive first."""
    return sorted(rows, key=lambda row: -row.costs.total.macs if row.costs else -math.inf)
