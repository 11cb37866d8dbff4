"""From which weights does fine-tuning start once SLS has found N?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from thinlens.methods.least_squares.method import LeastSquares
from thinlens.methods.nm_method import NMMethod, Plan
from thinlens.sparsity.allocation import Allocation, Tables, group_sizes
from thinlens.sparsity.masking import strip
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData

log = logging.getLogger(__name__)

JUDGED_BATCHES = 4
"""Batches on which the two starts are compared."""

CLEARLY_BETTER = 0.9
"""The part of the searched network's error that the solution must stay below. Short searches end
far above (0.84 after 30 steps); where the two are close, the searched weights train on better."""


@dataclass(frozen=True)
class LeastSquaresStart:
    """Solves for the weights at the N that was found, and starts there if that is clearly better.

    The solution repairs the dense network; the searched weights have trained under their mask.
    Which is the better start depends on how long the search was.
    """

    settings: NMMethod
    dense: nn.Module
    data: TrainingData
    trainer: Trainer

    def __call__(self, searched: nn.Module, n: Mapping[str, int]) -> nn.Module | None:
        """Return the least-squares network, or None where `searched` does as well."""
        method = _Found(**self.settings.shared(), n=n, seed=self.trainer.settings.seed)
        solved = method.solved(self.dense, self.data).module
        plain, _ = strip(searched)
        error, trained = self._error(solved), self._error(plain)
        log.info("mean absolute error: %.4f solved by least squares, %.4f searched", error, trained)
        return solved if error < CLEARLY_BETTER * trained else None

    @torch.no_grad()
    def _error(self, network: nn.Module) -> float:
        """Return the mean absolute error on the first batches after those of calibration."""
        device = next(network.parameters()).device
        total = 0.0
        for step in range(JUDGED_BATCHES):
            image, target = self.data.batch(self.trainer.settings.seed, 1, step)
            total += float((network.eval()(image.to(device)) - target.to(device)).abs().mean())
        return total


def searched_plan(tables: Tables, n: Mapping[str, int]) -> Plan:
    """Return the plan of an N that a search has found."""
    cost = sum(costs[n[name]] for name, costs in tables.items())
    dense = sum(costs[-1] for costs in tables.values())
    return Plan(Allocation(dict(n), cost, dense), group_sizes(tables))


@dataclass(frozen=True, kw_only=True)
class _Found(LeastSquares):
    """Least squares at an N that was found elsewhere."""

    n: Mapping[str, int] = field(default_factory=dict)

    def plan(self, model: nn.Module) -> Plan:
        return searched_plan(self.tables(model), self.n)
