"""When does the price of computation rise? (SLS, equation 7)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thinlens.errors import UsageError
from thinlens.sparsity.budget import Budget

CAP = 1e4
"""lambda never exceeds this multiple of its start."""

PATIENCE = 20
"""Epochs at the cap after which the search is told that it will not arrive."""

RATES = ("factor", "fraction")


@dataclass
class Annealing:
    """lambda, multiplied by alpha every K epochs in which the network shrank too little."""

    penalty: float
    """lambda on the cost as a part of the dense cost."""
    budget: Budget
    alpha: float = 1.2
    threshold: float | None = None
    """T: a change of up to this is too little; None: what arriving on time needs."""
    every: int = 2
    """K, in epochs."""
    window: int = 2
    """The epochs over which the change is measured (the official code: the last one)."""
    rate: str = "factor"
    """The quantity that changes: the compression factor C_original / C_pruned (official code), or
    the fraction C_pruned / C_original (equation 7 to the letter)."""
    capped: int = 0
    """Epochs for which lambda should have risen above its cap."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.penalty) and self.penalty >= 0):
            raise UsageError(f"lambda {self.penalty}: wanted a finite number from 0")
        if not 1 <= self.alpha < math.inf:
            raise UsageError(f"alpha {self.alpha}: wanted a finite factor from 1 (1: no annealing)")
        if self.threshold is not None and not self.threshold >= 0:
            raise UsageError(f"T {self.threshold}: wanted a change from 0, or None")
        if self.every < 1 or self.window < 1:
            raise UsageError(f"K {self.every}, window {self.window}: wanted 1 epoch or more")
        if self.rate not in RATES:
            raise UsageError(f"rate {self.rate!r}: wanted {' or '.join(RATES)}")
        self._start = self.penalty

    @property
    def overflown(self) -> bool:
        """Whether lambda has stood at its cap for long."""
        return self.capped >= PATIENCE

    def update(self, costs: Sequence[float], epochs_left: float) -> None:
        """Act at the end of an epoch, given the cost before the first epoch and after each."""
        epoch = len(costs) - 1
        if epoch % self.every or epoch < self.window:
            return
        now = self._measure(costs[-1])
        change = now - self._measure(costs[-1 - self.window])
        least = self.threshold
        if least is None:
            missing = self._measure(float(self.budget.kept)) - now
            least = missing * self.window / max(epochs_left, self.window)
        if change > least or self.alpha == 1:
            return
        self.capped += self.every if self.penalty >= CAP * self._start else 0
        self.penalty = min(self.penalty * self.alpha, CAP * self._start)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs."""
        return {"penalty": self.penalty, "capped": self.capped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.penalty, self.capped = state["penalty"], state["capped"]

    def _measure(self, cost: float) -> float:
        return 1 / cost if self.rate == "factor" else -cost
