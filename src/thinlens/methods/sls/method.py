"""SLS: search the N of every layer's N:M sparsity under a budget, while training.

Oh et al., "Attentive Fine-Grained Structured Sparsity for Image Restoration" (CVPR 2022),
sections 3.3 to 3.5: every layer's weight is a sum of M units ordered by magnitude
(`sparsity.rank_mask`); how many live is learned under a price of computation that rises until
the budget is met (`methods.sls.search`, `methods.sls.annealing`); then N is fixed and the weights are
fine-tuned. Where paper and official code disagree the presets say which is which.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

from torch import nn

from thinlens.errors import UsageError
from thinlens.methods.frozen_entries import held
from thinlens.methods.importance import SALIENCIES, saliencies
from thinlens.methods.least_squares.method import LeastSquares
from thinlens.methods.method import check_l1
from thinlens.methods.moments import calibration_images
from thinlens.methods.nm_method import NMMethod
from thinlens.methods.sls.annealing import Annealing
from thinlens.methods.sls.least_squares_start import LeastSquaresStart, searched_plan
from thinlens.methods.sls.search import Course, Search
from thinlens.sparsity.allocation import Tables, check_reachable
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.masking import strip
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.residual import residual_layers
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData

EPOCHS = 300
"""SLS's search and fine-tuning take 300 epochs; a run of any length is cut into as many."""

LAMBDA_REG = 1e-10
"""The paper's lambda for super-resolution: per multiply-add of a training crop, for 0..255."""

FASTEST = 0.05
"""The most a priority may move in a step: N = 1 takes ten of them."""

CALIBRATION_PIXELS = 16 * 48 * 48
"""Input pixels on which saliencies are measured: one batch of the paper's."""


@dataclass(frozen=True, kw_only=True)
class Sls(NMMethod):
    """Search N per layer. Times are epochs, 1/300 of the run, so that it may have any length."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "alpha": 1.1,
            "anneal_threshold": 0.1,
            "anneal_window": 2,
            "rate": "fraction",
            "refill": False,
        },
        "code": {"k_max": 1.03, "regroup_until": 1.0, "refill": False},
        "plus": {
            "penalty": 5e-4,
            "alpha": 1.3,
            "anneal_threshold": None,
            "anneal_window": 2,
            "travel": 24.0,
            "regroup_epochs": 4,
            "search_until": 0.6,
            "finish": "greedy",
            "knapsack": 2.0,
            "least_squares": True,
            "taught": 0.5,
        },
    }
    """The paper to the letter, its official code, and ours: from a knapsack of twice the budget to
    the budget, exactly, by 60 % of the run, no faster than that needs, taught by the dense
    network."""

    DEFAULT_PRESET: ClassVar[str | None] = "plus"

    penalty: float | None = None
    """lambda' where it starts, on the cost as a part of the dense cost; None: the paper's."""
    alpha: float = 1.2
    """What lambda is multiplied by (1: no annealing)."""
    anneal_threshold: float | None = 0.2
    """T of equation 7; None: the change that arriving on time needs."""
    anneal_epochs: int = 2
    """K of equation 7."""
    anneal_window: int = 1
    """The epochs over which the change is measured."""
    rate: str = "factor"
    """Whose change: factor (C_original / C_pruned) or fraction (equation 7 to the letter)."""
    threshold: float = 0.5
    """tau: a unit lives while its priority is above it."""
    k_max: float = 1.0
    """The upper bound of every k."""
    travel: float = 30.0
    """How far a priority can move in a run: its learning rate is this over the run's steps
    (1e-4 in the official code's 300 epochs of 1,000 steps)."""
    ordered: bool = True
    """Priority-ordered pruning; False is the ablation of Table 3."""
    saliency: str = "magnitude"
    """What weights are ranked by: magnitude, activation or second-order."""
    regroup_epochs: int = 1
    """Epochs between two rankings."""
    regroup_until: float = 0.9
    """The part of the run after which ranks stay."""
    search_until: float = 1.0
    """The part of the run by which the budget has to be met."""
    finish: str = "refuse"
    """What happens if it is not: refuse, or prune the rest by priority (greedy)."""
    refill: bool = True
    """Spend what the last pruned unit left over."""
    drop: bool = False
    """Let the last layers of residual branches keep nothing: N = 0."""
    knapsack: float = 0.0
    """Start at a least-squares network, with the N of a knapsack, of so many times the budget; 0:
    start dense."""
    least_squares: bool = False
    """Start fine-tuning from the least-squares solution for the N that was found."""
    hold_pruned: bool = False
    """Keep pruned weights and their moments exactly as they are."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise UsageError(f"tau {self.threshold}: wanted a threshold between 0 and 1")
        if not 1 <= self.k_max <= 2:
            raise UsageError(f"k_max {self.k_max}: wanted a bound from 1 to 2")
        if not 0 < self.travel < float("inf"):
            raise UsageError(f"travel {self.travel}: wanted a finite distance above 0")
        if self.saliency not in SALIENCIES:
            raise UsageError(f"saliency {self.saliency!r}: wanted {', '.join(SALIENCIES)}")
        if self.finish not in ("refuse", "greedy"):
            raise UsageError(f"finish {self.finish!r}: wanted refuse or greedy")
        if not (self.knapsack == 0 or 1 <= self.knapsack < float("inf")):
            raise UsageError(f"knapsack {self.knapsack}: wanted 0, or times the budget from 1")
        if self.regroup_epochs < 1:
            raise UsageError(f"regroup_epochs {self.regroup_epochs}: wanted 1 or more")
        for key in ("regroup_until", "search_until"):
            if not 0 <= getattr(self, key) <= 1:
                raise UsageError(f"{key} {getattr(self, key)}: wanted a part of the run, 0 to 1")
        self._annealing(self.penalty or 0.0)  # refuses what annealing cannot take

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a thin network; `model` is never changed.

        Raises `NotReached` if the search ends above the budget and `finish` is refuse.
        """
        start = time.monotonic()
        if trainer.settings.steps < 1:
            raise UsageError("sls searches while it trains: wanted a number of steps (--steps)")
        check_l1(trainer.settings, "the price of computation")
        search = self.search(model, data, trainer)
        with held(search.dead_weights()) if self.hold_pruned else nullcontext():
            trainer.fit(search, data)
        module, patterns = strip(search.module)
        seconds = time.monotonic() - start
        steps = trainer.settings.steps
        record = {**self.outcome(search), "steps": steps, "seconds": seconds}
        return Pruned(module, patterns, record)

    def search(
        self,
        model: nn.Module,
        data: TrainingData,
        trainer: Trainer,
        passing: tuple[Budget, ...] = (),
    ) -> Search:
        """Return the objective that searches and fine-tunes a copy of `model`."""
        seed, scores, restart, start = trainer.settings.seed, None, None, None
        if self.saliency != "magnitude":
            images = calibration_images(data, seed, CALIBRATION_PIXELS)
            scores = partial(saliencies, images=images, kind=self.saliency)
        if self.least_squares:
            restart = LeastSquaresStart(self, model, data, trainer)
        first = self.budget.kept * Fraction(self.knapsack)
        if 0 < first < 1:
            shared = {**self.shared(), "budget": Budget(first)}
            start = LeastSquares(**shared, allocation="knapsack", seed=seed).solved(model, data)
        course = replace(self.course(model, trainer.settings.steps), passing=passing)
        penalty = self.penalty
        if penalty is None:
            crop = (1, *data.batch(seed, 0, 0)[0].shape[1:])
            penalty = paper_penalty(replace(self, example=crop, prices=None).tables(model))
        annealing = self._annealing(penalty)
        return Search(copy.deepcopy(model), course, annealing, scores, restart, start)

    def passed(
        self, model: nn.Module, data: TrainingData, trainer: Trainer, budgets: Sequence[Budget]
    ) -> list[dict[str, int]]:
        """Search once and return N by layer name at falling `budgets`, the last of which is ours.

        N never rises from a budget to the next, so the networks nest.
        """
        search = self.search(model, data, trainer, passing=tuple(budgets[:-1]))
        trainer.fit(search, data)
        found = [*search.passed, search.n]
        for thicker, thinner in pairwise(found):
            thinner.update({name: min(n, thicker[name]) for name, n in thinner.items()})
        return found

    def course(self, model: nn.Module, steps: int) -> Course:
        """Lay out the search on a run of `steps` steps.

        Raises `UsageError` if no layer can be pruned, or if N = 1 everywhere is too much.
        """
        tables = self.tables(model)
        residual = residual_layers(model, self.example) if self.drop else set()
        droppable = residual & tables.keys()
        check_reachable(tables, self.budget, droppable)
        return Course(
            budget=self.budget,
            tables=tables,
            threshold=self.threshold,
            k_max=self.k_max,
            priority_rate=min(FASTEST, self.travel / max(1, steps)),
            ordered=self.ordered,
            epoch_steps=max(1, round(steps / EPOCHS)),
            regroup_epochs=self.regroup_epochs,
            last_regroup=round(self.regroup_until * steps),
            deadline=round(self.search_until * steps),
            greedy=self.finish == "greedy",
            refill=self.refill,
            droppable=frozenset(droppable),
        )

    def outcome(self, search: Search) -> dict[str, Any]:
        """Return what is remembered of a search."""
        plan = searched_plan(search.course.tables, search.n)
        shared = self.shared()
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in shared}
        return {
            **self.record(plan),
            "settings": settings,
            "frozen_step": search.frozen_step,
            "least_squares_start": search.restarted,
            "final_lambda": search.annealing.penalty,
            "history": search.history,
        }

    def _annealing(self, penalty: float) -> Annealing:
        return Annealing(
            penalty,
            self.budget,
            alpha=self.alpha,
            threshold=self.anneal_threshold,
            every=self.anneal_epochs,
            window=self.anneal_window,
            rate=self.rate,
        )


def paper_penalty(tables: Tables) -> float:
    """Return the paper's lambda on the cost as a fraction, for images in [0, 1].

    `tables` price the layers on one training crop: lambda_reg C_original / 255.
    """
    return LAMBDA_REG * sum(costs[-1] for costs in tables.values()) / 255
