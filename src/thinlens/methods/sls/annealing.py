"""Annealing of the cost penalty lambda (SLS, equation 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from thinlens.errors import UsageError, check_choice
from thinlens.sparsity.budget import Budget

MAX_PENALTY_GROWTH = 1e4
"""Default of the largest lambda, in multiples of its initial value."""

CAP_PATIENCE = 20
"""Epochs at the cap after which the search is considered unable to meet the budget."""

AnnealQuantity = Literal["factor", "fraction"]
"""The measure of compression whose change is compared with T: the compression factor
C_original / C_pruned (official code), or the fraction C_pruned / C_original (equation 7)."""


@dataclass
class Annealing:
    """lambda, multiplied by alpha every K epochs in which the cost decreased too little."""

    penalty: float
    """lambda on the cost as a fraction of the dense cost."""
    budget: Budget
    alpha: float = 1.2
    threshold: float | None = None
    """T: a change of at most this is too little; None: the change that meeting the budget in time
    needs."""
    every: int = 2
    """K, in epochs."""
    window: int = 2
    """The epochs over which the change is measured (the official code: the last one)."""
    quantity: AnnealQuantity = "factor"
    max_growth: float | None = MAX_PENALTY_GROWTH
    """Largest lambda, in multiples of its initial value; None: no bound."""
    capped: int = 0
    """Epochs for which the cap prevented an increase of lambda."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.penalty) and self.penalty >= 0):
            raise UsageError(f"lambda {self.penalty}: wanted a finite number from 0")
        if not 1 <= self.alpha < math.inf:
            raise UsageError(f"alpha {self.alpha}: wanted a finite factor from 1 (1: no annealing)")
        if self.threshold is not None and not self.threshold >= 0:
            raise UsageError(f"T {self.threshold}: wanted a change from 0, or None")
        if self.every < 1 or self.window < 1:
            raise UsageError(f"K {self.every}, window {self.window}: wanted 1 epoch or more")
        if self.max_growth is not None and not self.max_growth >= 1:
            raise UsageError(f"max_penalty_growth {self.max_growth}: wanted a factor from 1")
        check_choice("anneal_quantity", self.quantity, get_args(AnnealQuantity))
        self._initial = self.penalty

    @property
    def saturated(self) -> bool:
        """Whether lambda has been at its cap for `CAP_PATIENCE` epochs."""
        return self.capped >= CAP_PATIENCE

    def update(self, costs: Sequence[float], epochs_remaining: float) -> None:
        """Update lambda at the end of an epoch (equation 7).

        `costs` are those before the first epoch and after each; `epochs_remaining` counts to the
        deadline.
        """
        epoch = len(costs) - 1
        if epoch % self.every or epoch < self.window:
            return
        current = self._measure(costs[-1])
        change = current - self._measure(costs[-1 - self.window])
        threshold = self.threshold
        if threshold is None:
            missing = self._measure(float(self.budget.kept)) - current
            threshold = missing * self.window / max(epochs_remaining, self.window)
        if change > threshold or self.alpha == 1:
            return
        cap = math.inf if self.max_growth is None else self.max_growth * self._initial
        self.capped += self.every if self.penalty >= cap else 0
        self.penalty = min(self.penalty * self.alpha, cap)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resume needs."""
        return {"penalty": self.penalty, "capped": self.capped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.penalty, self.capped = state["penalty"], state["capped"]

    def _measure(self, cost: float) -> float:
        return 1 / cost if self.quantity == "factor" else -cost
