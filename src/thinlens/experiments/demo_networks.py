"""Networks of the demo: dense, and pruned by three methods, with metrics and latencies."""

from __future__ import annotations

import itertools
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
from thinlens.engine.compiled import Compiled
from thinlens.engine.native import native
from thinlens.experiments.networks import HD_SIZE, input_shape
from thinlens.experiments.photographs import ImageSources
from thinlens.images.resize import bicubic_upsample
from thinlens.progress import Progress
from thinlens.restoration.evaluation import Evaluation, evaluate
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.summary import CostSummary, summarize
from thinlens.tasks.task import Task
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

VARIANTS = (
    ("one-shot", "1/2"),
    ("least-squares", "1/2"),
    ("one-shot", "1/4"),
    ("least-squares", "1/4"),
    ("sls", "1/4"),
    ("least-squares", "1/8"),
    ("sls", "1/8"),
)
"""(method, budget) of the pruned networks."""

SEARCH = Settings(steps=100, learning_rate=1e-3, warmup=10)
"""Training of `sls` on one calibration crop a step: enough to find N, too short to train."""

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
    """Restores a batch of images `[B, C, h, w]`."""
    costs: CostSummary | None = None
    bytes: int | None = None
    seconds: float | None = None
    """Duration of pruning."""
    ms: float | None = None
    """Milliseconds for one input of `TIMED_SIZE` in the native engine; None without it."""
    scores: dict[str, Evaluation] = field(default_factory=dict)
    """Metrics by test set."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """The method's record of its run."""

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


def prune_variants(
    dense: Checkpoint, task: Task, sources: ImageSources, folder: Path, report: Progress
) -> list[DemoRow]:
    """Prune `dense` by all `VARIANTS`, save them below `folder`, and evaluate all networks."""
    shape = input_shape(task, HD_SIZE)
    unpruned = [
        DemoRow("bicubic", "", lambda image: bicubic_upsample(image, task.scale)),
        DemoRow("dense", "", dense.module, summarize(dense.module, {}, shape), dense.bytes),
    ]

    def pruned(method: str, budget: str) -> DemoRow:
        thin = prune(
            dense.module,
            budget=budget,
            method=method,
            data=sources.crops,
            size=shape[1:],
            trainer=Trainer(SEARCH) if method == "sls" else None,
        )
        path = folder / f"{method}-{budget.replace('/', '-of-')}"
        packed = save(path, thin, model=dense.model, task=task)
        summary = summarize(thin.module, thin.patterns, shape)
        seconds = thin.record["seconds"]
        return DemoRow(method, budget, thin.module, summary, packed, seconds, record=thin.record)

    total = len(unpruned) + len(VARIANTS)
    rows: list[DemoRow] = []
    for row in itertools.chain(unpruned, itertools.starmap(pruned, VARIANTS)):
        for name, pairs in sources.tests.items():
            row.scores[name] = evaluate(row.run, task, pairs)
        rows.append(row)
        report(len(rows), total, {})
    return rows


def measure_latency(rows: Sequence[DemoRow], channels: int) -> tuple[list[DemoRow], float | None]:
    """Return the rows with their milliseconds, and those of torch for the dense network.

    All are measured interleaved.
    """
    networks = [(row, row.run) for row in rows if isinstance(row.run, nn.Module)]
    if native() is None or not networks:
        return list(rows), None
    threads = torch.get_num_threads()
    image = torch.rand(1, channels, *TIMED_SIZE, generator=torch.Generator().manual_seed(0))
    dense = torch.inference_mode()(networks[0][1])
    runs: list[Callable[[], Tensor]] = [partial(dense, image)]
    runs += [partial(Compiled(network, threads), image) for _, network in networks]
    expected = runs[0]()
    cases = [BenchCase(str(i), "fp32", False, run, expected) for i, run in enumerate(runs)]
    torch_row, *native_rows = run_interleaved(cases, threads, TIMED_ROUNDS)
    latencies = {id(row): result.ms for (row, _), result in zip(networks, native_rows, strict=True)}
    return [replace(row, ms=latencies.get(id(row))) for row in rows], torch_row.ms
