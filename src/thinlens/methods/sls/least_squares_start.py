"""Initial weights of SLS fine-tuning: the searched ones, or a least-squares solution."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from thinlens.methods.least_squares.method import LeastSquares
from thinlens.methods.nm_method import NMMethod, NMPlan
from thinlens.sparsity.allocation import Allocation, CostTables, group_sizes
from thinlens.sparsity.masking import strip
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData

log = logging.getLogger(__name__)

COMPARED_BATCHES = 4
"""Batches on which the two candidates are compared."""

MAX_ERROR_RATIO = 0.9
"""Largest error of the least-squares solution as a fraction of the searched network's. Short
searches end far above it (0.84 after 30 steps); at similar errors the searched weights fine-tune
better."""


@dataclass(frozen=True)
class LeastSquaresStart:
    """Solves least squares at the searched N, and returns the solution if it is clearly better.

    The solution starts from the dense network; the searched weights were trained under their
    mask. Which is better depends on the length of the search.
    """

    settings: NMMethod
    dense: nn.Module
    data: TrainingData
    trainer: Trainer

    def __call__(self, searched: nn.Module, n: Mapping[str, int]) -> nn.Module | None:
        """Return the least-squares network, or None where `searched` is as good."""
        method = _SearchedLeastSquares(
            **self.settings.shared(), n=n, seed=self.trainer.settings.seed
        )
        solved = method.solved(self.dense, self.data).module
        stripped, _ = strip(searched)
        error, searched_error = self._error(solved), self._error(stripped)
        log.info("mean absolute error: least squares %.4f, searched %.4f", error, searched_error)
        return solved if error < MAX_ERROR_RATIO * searched_error else None

    @torch.no_grad()
    def _error(self, network: nn.Module) -> float:
        """Return the mean absolute error on the first batches after those of calibration."""
        device = next(network.parameters()).device
        total = 0.0
        for step in range(COMPARED_BATCHES):
            image, target = self.data.batch(self.trainer.settings.seed, 1, step)
            total += float((network.eval()(image.to(device)) - target.to(device)).abs().mean())
        return total


def searched_plan(tables: CostTables, n: Mapping[str, int]) -> NMPlan:
    """Return the plan for the N of a search."""
    cost = sum(costs[n[name]] for name, costs in tables.items())
    dense = sum(costs[-1] for costs in tables.values())
    return NMPlan(Allocation(dict(n), cost, dense), group_sizes(tables))


@dataclass(frozen=True, kw_only=True)
class _SearchedLeastSquares(LeastSquares):
    """Least squares at the N of a search."""

    n: Mapping[str, int] = field(default_factory=dict)

    def plan(self, model: nn.Module) -> NMPlan:
        return searched_plan(self.tables(model), self.n)
