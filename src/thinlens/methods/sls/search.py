"""SLS search: learn N of every layer under a cost penalty (section 3.5, equations 5 and 6).

An `Objective`: the loss includes the cost of the kept weights; after every step the priorities are
projected and the budget is tested; once it is met N is fixed and the network is fine-tuned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.errors import RunError
from thinlens.methods.importance import dense_weight
from thinlens.methods.sls.annealing import Annealing
from thinlens.sparsity.allocation import CostTables, allocate
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.convex_envelope import convex_envelope
from thinlens.sparsity.masking import mask_weight, prunable_layer
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.rank_mask import (
    RankMask,
    independent_priorities,
    ordered_priorities,
    stack_padded,
)
from thinlens.sparsity.ranks import magnitude_ranks, ranks
from thinlens.training.objective import ForwardFunction

log = logging.getLogger(__name__)

ImportanceFunction = Callable[[nn.Module, Iterable[str]], Mapping[str, Tensor]]
"""Returns importance scores for the weights of the named layers of a network, shaped as those; a
layer without scores is ranked by magnitude."""

RestartFunction = Callable[[nn.Module, Mapping[str, int]], nn.Module | None]
"""Returns the network from whose weights fine-tuning starts, from the searched network and its N by
layer name; or None to continue with the searched weights."""


class BudgetNotMetError(RunError):
    """The search ended above its budget."""


@dataclass(frozen=True)
class SlsSearchConfig:
    """Budget, costs and schedule of a search; see `Sls` for most fields."""

    budget: Budget
    tables: CostTables
    threshold: float
    k_max: float
    priority_rate: float
    ordered: bool
    epoch_steps: int
    regroup_epochs: int
    """Epochs between two updates of the ranks; 0: every step."""
    last_regroup: int
    """The step after which ranks are not updated."""
    deadline: int
    """The step by which the budget has to be met."""
    greedy: bool
    refill: bool
    allow_zero: frozenset[str] = frozenset()
    """Layers whose N may become 0."""
    convex: bool = False
    """Whether the penalty's gradient is that of the costs' convex envelope: measured times have
    plateaus, on which it would be 0."""
    budget_checkpoints: tuple[Budget, ...] = ()
    """Budgets above `budget`, descending, at which N is recorded during the search."""

    @property
    def dense(self) -> int:
        """The cost at N = M everywhere: C_original."""
        return sum(costs[-1] for costs in self.tables.values())


class SlsSearch:
    """Minimise loss + lambda cost until the cost meets the budget; then the loss alone."""

    finished = False

    def __init__(
        self,
        module: nn.Module,
        config: SlsSearchConfig,
        annealing: Annealing,
        scores: ImportanceFunction | None = None,
        restart: RestartFunction | None = None,
        start: Pruned | None = None,
    ) -> None:
        """Search in `module`, whose N:M layers are initialised from `start` unless it is None."""
        self.module = module
        self.config = config
        self.annealing = annealing
        self.masks: dict[str, RankMask] = {}
        for name, costs in config.tables.items():
            layer = prunable_layer(module, name)
            mask = RankMask(
                layer, len(costs) - 1, ordered=config.ordered, allow_zero=name in config.allow_zero
            )
            mask_weight(module, name, mask)
            self.masks[name] = mask
        self.history: list[dict[str, Any]] = []
        """One row for each epoch of the search."""
        self.n_at_budgets: list[dict[str, int]] = []
        """N by layer name at each budget checkpoint that was met."""
        self.frozen_step: int | None = None
        self.restarted = False
        """Whether fine-tuning started from other weights than the searched ones."""
        self._scores = scores
        self._restart = restart
        shaped = convex_envelope if config.convex else list
        steps = [torch.tensor(shaped(costs)).diff() for costs in config.tables.values()]
        self._marginal = stack_padded(steps) / config.dense  # [L, M]: the cost of each unit
        self._task_loss = torch.zeros(())
        self._loss_sum, self._losses, self._flips = 0.0, 0, 0
        if start is not None:
            self._start_from(start)
        self._first_cost = float(self.cost)
        if self.cost <= config.budget.kept:
            log.warning(
                "the network meets the budget %s as it is: nothing is searched", config.budget
            )
            self._freeze(0)

    @property
    def n(self) -> dict[str, int]:
        """N by layer name."""
        return {name: mask.n for name, mask in self.masks.items()}

    @property
    def cost(self) -> Fraction:
        """The cost of the kept weights as a fraction of the dense cost (equation 5)."""
        kept = sum(costs[self.masks[name].n] for name, costs in self.config.tables.items())
        return Fraction(kept, self.config.dense)

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        priorities = [k for mask in self.masks.values() for k in mask.learnable]
        excluded = {id(k) for k in priorities}
        weights = [p for p in self.module.parameters() if p.requires_grad and id(p) not in excluded]
        return [
            {"params": weights, "lr": learning_rate},
            {"params": priorities, "lr": self.config.priority_rate},
        ]

    def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, target = batch
        task = (network(image) - target).abs().mean()
        self._task_loss = task.detach()
        if self.frozen_step is not None:
            return task
        return task + self.annealing.penalty * self.cost_with_gradient()  # equation 6

    def cost_with_gradient(self) -> Tensor:
        """Return the cost; its gradient by p_i is the cost of unit i (straight through)."""
        p = self._priorities()
        return float(self.cost) + ((p - p.detach()) * self._marginal.to(p)).sum()

    def after_step(self, step: int) -> None:
        self._loss_sum, self._losses = self._loss_sum + float(self._task_loss), self._losses + 1
        if self.frozen_step is None:
            self._project()
            self._record_budgets()
            if self.cost <= self.config.budget.kept:
                self._freeze(step)
            elif step >= self.config.deadline:
                self._end_above_budget(step, "its fraction of the run is over")
        if not self.config.regroup_epochs and step <= self.config.last_regroup:
            self._update_ranks(self._scores)
        if step // self.config.epoch_steps > len(self.history):
            self._end_epoch(step)

    @torch.no_grad()
    def _project(self) -> None:
        """Clamp every k to its bounds and keep the units whose priority exceeds the threshold."""
        for mask in self.masks.values():
            for k in mask.learnable:
                k.clamp_(0, self.config.k_max)
        kept = self._priorities() > self.config.threshold
        if self.config.ordered:  # with k above 1 a later p can exceed an earlier one
            kept = kept.cumprod(1).bool()
        for mask, row in zip(self.masks.values(), kept.tolist(), strict=True):
            mask.kept_units = tuple(row[: mask.m])

    def _priorities(self) -> Tensor:
        """Return p of all layers, `[L, M]`, zero-padded to the largest M (equation 4)."""
        masks = self.masks.values()
        priorities = ordered_priorities if self.config.ordered else independent_priorities
        p = priorities(stack_padded([mask.priorities for mask in masks]))
        if self.config.allow_zero:
            p = p * torch.stack([mask.gate for mask in masks])[:, None]
        return p

    def _record_budgets(self) -> None:
        """Record N at the budget checkpoints that are met now, with the remainder spent."""
        for budget in self.config.budget_checkpoints[len(self.n_at_budgets) :]:
            if self.cost <= budget.kept:
                self.n_at_budgets.append(self._allocate(budget))

    def _freeze(self, step: int) -> None:
        """Fix N, with the rest of the budget spent; from now on only weights are trained."""
        skipped = self.config.budget_checkpoints[len(self.n_at_budgets) :]  # by a greedy finish
        self.n_at_budgets += [self._allocate(budget) for budget in skipped]
        if self.config.refill or self.cost > self.config.budget.kept:
            for name, n in self._allocate(self.config.budget).items():
                self.masks[name].set_n(n)
        for mask in self.masks.values():
            mask.freeze()
        self.frozen_step = step
        start = self._restart(self.module, self.n) if self._restart else None
        self.restarted = start is not None
        if start is not None:
            self._load_weights(start)
            self._update_ranks(scores=None)  # the zeros of the new weights rank last

    def _end_above_budget(self, step: int, reason: str) -> None:
        """Prune greedily down to the budget, or raise `BudgetNotMetError`."""
        if not self.config.greedy:
            raise BudgetNotMetError(
                f"the search stands at {float(self.cost):.4f} of the prunable cost, above the "
                f"budget {self.config.budget}, and {reason}: more steps, a larger budget or "
                "finish='greedy' would end it"
            )
        log.warning("the search stands at %.4f and %s: greedy finish", float(self.cost), reason)
        self._freeze(step)

    @torch.no_grad()
    def _allocate(self, budget: Budget) -> dict[str, int]:
        """Remove units until N meets a budget, then add those that fit, by priority per cost."""
        tables, allow_zero = self.config.tables, self.config.allow_zero
        priorities = dict(zip(tables, self._priorities().tolist(), strict=True))
        return allocate(tables, priorities, budget, self.n, allow_zero).n

    def _end_epoch(self, step: int) -> None:
        """Update ranks, append the epoch's row to the history, and anneal."""
        epoch, every = len(self.history) + 1, self.config.regroup_epochs
        if every and epoch % every == 0 and step <= self.config.last_regroup:
            self._update_ranks(self._scores)
        row = {"step": step, "cost": float(self.cost), "lambda": self.annealing.penalty}
        loss = self._loss_sum / max(1, self._losses)
        self.history.append({**row, "task_loss": loss, "flips": self._flips})
        self._loss_sum, self._losses, self._flips = 0.0, 0, 0
        if self.frozen_step is None:
            remaining = (self.config.deadline - step) / self.config.epoch_steps
            costs = [self._first_cost, *(row["cost"] for row in self.history)]
            self.annealing.update(costs, remaining)
            if self.annealing.saturated:
                self._end_above_budget(step, "lambda has been at its cap for long")

    def _update_ranks(self, scores: ImportanceFunction | None) -> None:
        """Recompute the ranks and count how many entries of the masks flip."""
        importance = scores(self.module, self.masks) if scores else {}
        for name, mask in self.masks.items():
            layer, weight = prunable_layer(self.module, name), dense_weight(self.module, name)
            if name in importance:
                ranked = ranks(importance[name], layer, mask.m)
            else:
                ranked = magnitude_ranks(weight, layer, mask.m)
            self._flips += mask.update_ranks(ranked)

    def pruned_entries(self) -> dict[Tensor, Callable[[], Tensor]]:
        """Return every weight with a function that masks its pruned entries (`freeze_entries`)."""

        def pruned(mask: RankMask) -> Callable[[], Tensor]:
            return lambda: ~mask.mask()

        return {dense_weight(self.module, n): pruned(mask) for n, mask in self.masks.items()}

    @torch.no_grad()
    def _start_from(self, start: Pruned) -> None:
        self._load_weights(start.module)
        self._update_ranks(scores=None)
        for name, mask in self.masks.items():
            n = start.patterns[name].n or 0
            mask.set_n(n)
            for k in (mask.gate, *mask.priorities)[n:]:
                k.zero_()

    def _load_weights(self, source: nn.Module) -> None:
        state = self.module.state_dict()
        for key, value in source.state_dict().items():
            layer, _, kind = key.rpartition(".")
            masked = layer in self.masks and kind == "weight"
            state[f"{layer}.parametrizations.weight.original" if masked else key] = value
        self.module.load_state_dict(state)

    def epoch_start(self, epoch: int) -> None:
        pass  # the search counts its epochs in steps

    def finish(self) -> None:
        if self.frozen_step is None:
            self._end_above_budget(self.config.deadline, "the run is over")

    def metrics(self) -> dict[str, float]:
        return {
            "task_loss": float(self._task_loss),
            "cost": float(self.cost),
            "lambda": self.annealing.penalty,
            "frozen": float(self.frozen_step is not None),
            "flips": float(self.history[-1]["flips"]) if self.history else 0.0,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "alive": [list(mask.kept_units) for mask in self.masks.values()],
            "annealing": self.annealing.state_dict(),
            "history": list(self.history),
            "passed": list(self.n_at_budgets),
            "frozen": [self.frozen_step, self.restarted],
            "sums": [self._loss_sum, self._losses, self._flips],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mask, kept_units in zip(self.masks.values(), state["alive"], strict=True):
            mask.kept_units = tuple(kept_units)
        self.annealing.load_state_dict(state["annealing"])
        self.history = list(state["history"])
        self.n_at_budgets = list(state["passed"])
        self.frozen_step, self.restarted = state["frozen"]
        self._loss_sum, self._losses, self._flips = state["sums"]
        if self.frozen_step is not None:
            for mask in self.masks.values():
                mask.freeze()
