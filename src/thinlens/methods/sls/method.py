"""SLS: search the N of every layer's N:M sparsity under a budget, while training.

Oh et al., "Attentive Fine-Grained Structured Sparsity for Image Restoration" (CVPR 2022),
sections 3.3 to 3.5: every layer's weight is a sum of M units ordered by magnitude
(`sparsity.rank_mask`, equations 1 to 4); how many are kept is learned under a cost penalty that
increases until the budget is met (`methods.sls.search`, equations 5 and 6; `methods.sls.annealing`,
equation 7); then N is fixed and the weights are fine-tuned. Where paper and official code disagree,
each has a preset.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import nn

from thinlens.errors import UsageError
from thinlens.methods.frozen_entries import freeze_entries
from thinlens.methods.importance import Importance, importance_scores
from thinlens.methods.least_squares.method import LeastSquares
from thinlens.methods.method import check_l1
from thinlens.methods.moments import calibration_images
from thinlens.methods.nm_method import NMMethod
from thinlens.methods.sls.annealing import MAX_PENALTY_GROWTH, Annealing, AnnealQuantity
from thinlens.methods.sls.least_squares_start import LeastSquaresStart, searched_plan
from thinlens.methods.sls.presets import LAMBDA_REG, PRESETS, TRAINING_PRESETS
from thinlens.methods.sls.search import SlsSearch, SlsSearchConfig
from thinlens.models.copying import copy_network
from thinlens.sparsity.allocation import CostTables, check_reachable
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.masking import strip
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.residual import residual_layers
from thinlens.tasks.task import Task
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData, input_batch

PAPER_EPOCHS = 300
"""Epochs of SLS's search and fine-tuning; a run of any length is divided into as many."""

MAX_PRIORITY_RATE = 0.05
"""Largest learning rate of priorities: N = 1 takes at least ten steps."""

CALIBRATION_PIXELS = 16 * 48 * 48
"""Input pixels on which importance is measured: one batch of the paper's."""


@dataclass(frozen=True, kw_only=True)
class Sls(NMMethod):
    """Search N of every layer during training. An epoch is 1/300 of a run of any length."""

    NAME: ClassVar[str] = "sls"
    NEEDS_STEPS: ClassVar[bool] = True

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    """paper: the paper's constants (`sls.presets` has the source of each), without options of ours.
    code: the official code. plus, ours: from a least-squares network of
    twice the budget to the budget, exactly, by 60 % of the run and no faster than that needs, with
    distillation from the dense network."""

    DEFAULT_PRESET: ClassVar[str | None] = "plus"
    TRAINING_PRESETS: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = TRAINING_PRESETS

    penalty: float | None = None
    """Initial lambda' on the cost as a fraction of the dense cost; None: that of lambda_reg."""
    lambda_reg: float = LAMBDA_REG["sr"]
    """lambda of equation 6, per multiply-add of a training crop, for images in 0..255 (the paper's
    for super-resolution; for deblurring it is 1e-12, unless given)."""
    alpha: float = 1.2
    """Factor by which lambda increases (equation 7); 1: no annealing."""
    anneal_threshold: float | None = 0.2
    """T of equation 7; None: the change that meeting the budget in time needs."""
    anneal_epochs: int = 2
    """K of equation 7, in epochs."""
    anneal_window: int = 1
    """The epochs over which the change is measured."""
    anneal_quantity: AnnealQuantity = "factor"
    """The quantity whose change T limits: factor (C_original / C_pruned) or fraction (its inverse,
    equation 7 to the letter)."""
    max_penalty_growth: float | None = MAX_PENALTY_GROWTH
    """Largest lambda, in multiples of the initial one; a search that stays there for 20 epochs
    ends. None: no bound (equation 7)."""
    threshold: float = 0.5
    """tau: a unit is kept while its priority is above it."""
    k_max: float = 1.0
    """Upper bound of every k (equation 4)."""
    priority_displacement: float = 30.0
    """Largest change of a priority over the run: its learning rate is this divided by the steps
    (1e-4 in the official code's 300 epochs of 1,000 steps)."""
    ordered: bool = True
    """Priority-ordered pruning (equation 4); False is the ablation of Table 3: independent
    priorities, but that of the first unit stays 1, so that N is at least 1."""
    importance: Importance = "magnitude"
    """What weights are ranked by: magnitude, activation or second-order."""
    regroup_epochs: int = 1
    """Epochs between two updates of the ranks; 0: every step."""
    regroup_until: float = 0.9
    """Fraction of the run after which ranks are fixed; 0: no update."""
    search_until: float = 1.0
    """Fraction of the run by which the budget has to be met."""
    finish: Literal["refuse", "greedy"] = "refuse"
    """What to do if it is not met: refuse, or prune the rest by priority (greedy)."""
    refill: bool = True
    """Add units back that still fit the budget once it is met."""
    allow_zero: bool = False
    """Allow N = 0 in the last layers of residual branches."""
    start_budget_factor: float = 0.0
    """Start from a least-squares network with knapsack allocation at this multiple of the budget;
    0: start dense."""
    least_squares: bool = False
    """Start fine-tuning from the least-squares solution for the searched N, if it is better."""
    freeze_pruned: bool = False
    """Freeze pruned weights and their optimizer state."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise UsageError(f"tau {self.threshold}: wanted a threshold between 0 and 1")
        if not 1 <= self.k_max <= 2:
            raise UsageError(f"k_max {self.k_max}: wanted a bound from 1 to 2")
        if not 0 < self.priority_displacement < float("inf"):
            value = self.priority_displacement
            raise UsageError(f"priority_displacement {value}: wanted a finite change above 0")
        if not (self.start_budget_factor == 0 or 1 <= self.start_budget_factor < float("inf")):
            value = self.start_budget_factor
            raise UsageError(f"start_budget_factor {value}: wanted 0, or times the budget from 1")
        if self.regroup_epochs < 0:
            raise UsageError(f"regroup_epochs {self.regroup_epochs}: wanted 0 (every step) or more")
        if not 0 <= self.lambda_reg < float("inf"):
            raise UsageError(f"lambda_reg {self.lambda_reg}: wanted a finite number from 0")
        for key in ("regroup_until", "search_until"):
            if not 0 <= getattr(self, key) <= 1:
                raise UsageError(f"{key} {getattr(self, key)}: wanted a part of the run, 0 to 1")
        self._annealing(self.penalty or 0.0)  # checks the options of annealing

    @classmethod
    def task_options(cls, task: Task | None) -> dict[str, Any]:
        """Return lambda_reg of the task, where the paper has one."""
        listed = task is not None and task.name in LAMBDA_REG
        return {"lambda_reg": LAMBDA_REG[task.name]} if task and listed else {}

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return the pruned network; `model` is never changed.

        Raises `BudgetNotMetError` if the search ends above the budget and `finish` is refuse.
        """
        start = time.monotonic()
        self.check_steps(trainer.settings)
        check_l1(trainer.settings, "the price of computation")
        search = self.search(model, data, trainer)
        with freeze_entries(search.pruned_entries()) if self.freeze_pruned else nullcontext():
            trainer.fit(search, data)
        module, patterns = strip(search.module)
        seconds = time.monotonic() - start
        steps = trainer.settings.steps
        record = {**self.search_record(search), "steps": steps, "seconds": seconds}
        return Pruned(module, patterns, record)

    def search(
        self,
        model: nn.Module,
        data: TrainingData,
        trainer: Trainer,
        budget_checkpoints: tuple[Budget, ...] = (),
    ) -> SlsSearch:
        """Return the objective that searches and fine-tunes a copy of `model`."""
        seed, scores, restart, start = trainer.settings.seed, None, None, None
        if self.importance != "magnitude":
            images = calibration_images(data, seed, CALIBRATION_PIXELS)
            scores = partial(importance_scores, images=images, kind=self.importance)
        if self.least_squares:
            restart = LeastSquaresStart(self, model, data, trainer)
        start_budget = self.budget.kept * Fraction(self.start_budget_factor)
        if 0 < start_budget < 1:
            shared = {**self.shared(), "budget": Budget(start_budget)}
            start = LeastSquares(**shared, allocation="knapsack", seed=seed).solved(model, data)
        config = replace(
            self.search_config(model, trainer.settings.steps), budget_checkpoints=budget_checkpoints
        )
        penalty = self.penalty
        if penalty is None:
            crop = (1, *input_batch(data, seed, 0, 0).shape[1:])
            tables = replace(self, example=crop, latency=None).tables(model)
            penalty = paper_penalty(tables, self.lambda_reg)
        annealing = self._annealing(penalty)
        return SlsSearch(copy_network(model), config, annealing, scores, restart, start)

    def n_at_budgets(
        self, model: nn.Module, data: TrainingData, trainer: Trainer, budgets: Sequence[Budget]
    ) -> list[dict[str, int]]:
        """Search once; return N by layer name at descending `budgets`, the last is `self.budget`.

        N never increases from a budget to the next, so the networks nest.
        """
        search = self.search(model, data, trainer, budget_checkpoints=tuple(budgets[:-1]))
        trainer.fit(search, data)
        n_by_budget = [*search.n_at_budgets, search.n]
        for larger, smaller in pairwise(n_by_budget):
            smaller.update({name: min(n, larger[name]) for name, n in smaller.items()})
        return n_by_budget

    def search_config(self, model: nn.Module, steps: int) -> SlsSearchConfig:
        """Return the schedule of the search for a run of `steps` steps.

        Raises `UsageError` if no layer can be pruned, or if N = 1 everywhere exceeds the budget.
        """
        tables = self.tables(model)
        residual = residual_layers(model, self.example) if self.allow_zero else set()
        allow_zero = residual & tables.keys()
        check_reachable(tables, self.budget, allow_zero)
        return SlsSearchConfig(
            budget=self.budget,
            tables=tables,
            threshold=self.threshold,
            k_max=self.k_max,
            priority_rate=min(MAX_PRIORITY_RATE, self.priority_displacement / max(1, steps)),
            ordered=self.ordered,
            epoch_steps=max(1, round(steps / PAPER_EPOCHS)),
            regroup_epochs=self.regroup_epochs,
            last_regroup=round(self.regroup_until * steps),
            deadline=round(self.search_until * steps),
            greedy=self.finish == "greedy",
            refill=self.refill,
            allow_zero=frozenset(allow_zero),
            convex=self.latency is not None,
        )

    def search_record(self, search: SlsSearch) -> dict[str, Any]:
        """Return the provenance entries of a search."""
        plan = searched_plan(search.config.tables, search.n)
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
            quantity=self.anneal_quantity,
            max_growth=self.max_penalty_growth,
        )


def paper_penalty(tables: CostTables, lambda_reg: float) -> float:
    """Return the paper's lambda on the cost as a fraction, for images in [0, 1].

    `tables` are the costs on one training crop: lambda_reg C_original / 255.
    """
    return lambda_reg * sum(costs[-1] for costs in tables.values()) / 255
