"""Which networks does the demo compare, and how good is each?"""

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
from thinlens.bench.interleaved import Entrant, compete
from thinlens.checkpoints.format import Checkpoint
from thinlens.cli.info import DEFAULT_SIZES
from thinlens.engine.compiled import Compiled
from thinlens.engine.native import native
from thinlens.experiments.networks import input_shape
from thinlens.experiments.photographs import Sources
from thinlens.experiments.values import size
from thinlens.images.resize import enlarge
from thinlens.progress import Progress
from thinlens.restoration.evaluation import Evaluation, evaluate
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.summary import Price, price
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
"""Methods and budgets that are compared."""

SEARCH = Settings(steps=100, learning_rate=1e-3, warmup=10)
"""How `sls` trains here, on one calibration crop a step: enough to find N, too little to train."""

TIMED = (90, 160)
"""Height and width of the input that is timed: a quarter of the one that is priced, for haste."""

TIMED_ROUNDS = 7


@dataclass(frozen=True)
class Row:
    """One network of the comparison; bicubic enlargement is none and has no price."""

    method: str
    """bicubic, dense or the name of a method."""
    budget: str
    """The part that was to be kept; empty for what is not pruned."""
    run: Callable[[Tensor], Tensor]
    """What restores a batch of images."""
    price: Price | None = None
    bytes: int | None = None
    seconds: float | None = None
    """What pruning took."""
    ms: float | None = None
    """What one input of `TIMED` takes in the native engine; None where it was not built."""
    scores: dict[str, Evaluation] = field(default_factory=dict)
    """By test set."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What the method remembers of its run."""

    def as_json(self) -> dict[str, Any]:
        """Return the row as `demo --json` prints it."""
        total = self.price.total if self.price else None
        return {
            "method": self.method,
            "budget": float(Budget.of(self.budget).kept) if self.budget else None,
            "achieved": self.price.budget if self.price else None,
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


def make_rows(
    dense: Checkpoint, task: Task, sources: Sources, folder: Path, report: Progress
) -> list[Row]:
    """Prune `dense` by every method at every budget, save each below `folder`, judge them all."""
    shape = input_shape(task, size(DEFAULT_SIZES["sls"]))
    unpruned = [
        Row("bicubic", "", lambda image: enlarge(image, task.scale)),
        Row("dense", "", dense.module, price(dense.module, {}, shape), dense.bytes),
    ]

    def pruned(method: str, budget: str) -> Row:
        thin = prune(
            dense.module,
            budget=budget,
            method=method,
            data=sources.crops,
            size=shape[1:],
            trainer=Trainer(SEARCH) if method == "sls" else None,
        )
        place = folder / f"{method}-{budget.replace('/', '-of-')}"
        packed = save(place, thin, model=dense.model, task=task)
        priced = price(thin.module, thin.patterns, shape)
        seconds = thin.record["seconds"]
        return Row(method, budget, thin.module, priced, packed, seconds, record=thin.record)

    total = len(unpruned) + len(VARIANTS)
    rows: list[Row] = []
    for row in itertools.chain(unpruned, itertools.starmap(pruned, VARIANTS)):
        for name, pairs in sources.tests.items():
            row.scores[name] = evaluate(row.run, task, pairs)
        rows.append(row)
        report(len(rows), total, {})
    return rows


def timed(rows: Sequence[Row], channels: int) -> tuple[list[Row], float | None]:
    """Return the rows with their milliseconds, and torch's for the dense network, in turns."""
    networks = [(row, row.run) for row in rows if isinstance(row.run, nn.Module)]
    if native() is None or not networks:
        return list(rows), None
    threads = torch.get_num_threads()
    image = torch.rand(1, channels, *TIMED, generator=torch.Generator().manual_seed(0))
    dense = torch.inference_mode()(networks[0][1])
    runs: list[Callable[[], Tensor]] = [partial(dense, image)]
    runs += [partial(Compiled(network, threads), image) for _, network in networks]
    expected = runs[0]()
    entrants = [Entrant(str(i), "fp32", False, run, expected) for i, run in enumerate(runs)]
    peer, *ours = compete(entrants, threads, TIMED_ROUNDS)
    found = {id(row): result.ms for (row, _), result in zip(networks, ours, strict=True)}
    return [replace(row, ms=found.get(id(row))) for row in rows], peer.ms
