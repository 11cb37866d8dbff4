"""How does SLS find N for every layer while the network trains? (section 3.5, equations 5 to 7)

An `Objective`: the loss carries the price of what is still kept; after every step the priorities
are projected and the budget is tested; once it is met N is fixed and the network is fine-tuned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from thinlens.errors import RunError
from thinlens.methods.importance import dense_weight
from thinlens.methods.sls.annealing import Annealing
from thinlens.sparsity.allocation import Tables, allocate
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.rank_mask import (
    RankMask,
    independent_priorities,
    ordered_priorities,
    stacked,
)
from thinlens.sparsity.ranks import magnitude_ranks, ranks
from thinlens.training.objective import Network

log = logging.getLogger(__name__)

Scores = Callable[[nn.Module, Iterable[str]], Mapping[str, Tensor]]
"""Given a network and names of layers, gives scores to rank their weights by, shaped as those; a
layer left out is ranked by magnitude."""

Restart = Callable[[nn.Module, Mapping[str, int]], nn.Module | None]
"""Given the searched network and its N by layer name, gives a plain network of that N from whose
weights fine-tuning starts; or None to go on from where the search stands."""


class NotReachedError(RunError):
    """The search ended above its budget."""


@dataclass(frozen=True)
class Course:
    """Where a search goes and how fast; see `Sls` for most fields."""

    budget: Budget
    tables: Tables
    threshold: float
    k_max: float
    priority_rate: float
    ordered: bool
    epoch_steps: int
    regroup_epochs: int
    last_regroup: int
    """No new ranks after this step."""
    deadline: int
    """The step by which the budget has to be met."""
    greedy: bool
    refill: bool
    droppable: frozenset[str] = frozenset()
    """Layers whose N may become 0."""
    passing: tuple[Budget, ...] = ()
    """Budgets above `budget`, falling, whose N is remembered on the way."""

    @property
    def dense(self) -> int:
        """The cost at N = M everywhere: C_original."""
        return sum(costs[-1] for costs in self.tables.values())


class Search:
    """Minimise the task's loss plus lambda times the cost until it fits; then the loss alone."""

    finished = False

    def __init__(
        self,
        module: nn.Module,
        course: Course,
        annealing: Annealing,
        scores: Scores | None = None,
        restart: Restart | None = None,
        start: Pruned | None = None,
    ) -> None:
        """Search in `module`, whose N:M layers begin as those of `start`, where that is given."""
        self.module = module
        self.course = course
        self.annealing = annealing
        self.masks: dict[str, RankMask] = {}
        for name, costs in course.tables.items():
            layer = prunable_layer(module, name)
            droppable = name in course.droppable
            mask = RankMask(layer, len(costs) - 1, ordered=course.ordered, droppable=droppable)
            parametrize.register_parametrization(layer, "weight", mask, unsafe=True)
            self.masks[name] = mask
        self.history: list[dict[str, Any]] = []
        """One row an epoch of the search's own."""
        self.passed: list[dict[str, int]] = []
        """N by layer name at each of the budgets that the search came past."""
        self.frozen_step: int | None = None
        self.restarted = False
        """Whether fine-tuning started from other weights than the search left."""
        self._scores = scores
        self._restart = restart
        steps = [torch.tensor(costs).diff() for costs in course.tables.values()]
        self._marginal = stacked(steps) / course.dense  # [L, M]: what each unit costs
        self._task_loss = torch.zeros(())
        self._loss_sum, self._losses, self._flips = 0.0, 0, 0
        if start is not None:
            self._begin_at(start)
        self._first_cost = float(self.cost)
        if self.cost <= course.budget.kept:
            log.warning(
                "the network meets the budget %s as it is: nothing is searched", course.budget
            )
            self._freeze(0)

    @property
    def n(self) -> dict[str, int]:
        """N by layer name."""
        return {name: mask.n for name, mask in self.masks.items()}

    @property
    def cost(self) -> Fraction:
        """What is kept, as a part of the dense cost (equation 5)."""
        kept = sum(costs[self.masks[name].n] for name, costs in self.course.tables.items())
        return Fraction(kept, self.course.dense)

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        priorities = [k for mask in self.masks.values() for k in mask.learned]
        apart = {id(k) for k in priorities}
        weights = [p for p in self.module.parameters() if p.requires_grad and id(p) not in apart]
        return [
            {"params": weights, "lr": learning_rate},
            {"params": priorities, "lr": self.course.priority_rate},
        ]

    def loss(self, network: Network, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, target = batch
        task = (network(image) - target).abs().mean()
        self._task_loss = task.detach()
        if self.frozen_step is not None:
            return task
        return task + self.annealing.penalty * self.cost_with_gradient()  # equation 6

    def cost_with_gradient(self) -> Tensor:
        """Return the cost; its gradient by p_i is what unit i costs (straight through)."""
        p = self._priorities()
        return float(self.cost) + ((p - p.detach()) * self._marginal.to(p)).sum()

    def after_step(self, step: int) -> None:
        self._loss_sum, self._losses = self._loss_sum + float(self._task_loss), self._losses + 1
        if self.frozen_step is None:
            self._project()
            self._note_passed()
            if self.cost <= self.course.budget.kept:
                self._freeze(step)
            elif step >= self.course.deadline:
                self._give_up(step, "its share of the run is over")
        if step // self.course.epoch_steps > len(self.history):
            self._end_epoch(step)

    @torch.no_grad()
    def _project(self) -> None:
        """Bring every k back into its bounds and read off which units live."""
        for mask in self.masks.values():
            for k in mask.learned:
                k.clamp_(0, self.course.k_max)
        alive = self._priorities() > self.course.threshold
        if self.course.ordered:  # with k above 1 a later p can exceed an earlier one
            alive = alive.cumprod(1).bool()
        for mask, row in zip(self.masks.values(), alive.tolist(), strict=True):
            mask.alive = tuple(row[: mask.m])

    def _priorities(self) -> Tensor:
        """Return p of all layers, `[L, M]`, filled up with what stands for no unit."""
        masks = self.masks.values()
        of_one = ordered_priorities if self.course.ordered else independent_priorities
        p = of_one(stacked([mask.priorities for mask in masks]))
        if self.course.droppable:
            p = p * torch.stack([mask.gate for mask in masks])[:, None]
        return p

    def _note_passed(self) -> None:
        """Remember N at the budgets that are met now, what they leave over spent."""
        for budget in self.course.passing[len(self.passed) :]:
            if self.cost <= budget.kept:
                self.passed.append(self._fitting(budget))

    def _freeze(self, step: int) -> None:
        """Fix N, with what is left of the budget spent; from now on only weights are trained."""
        jumped = self.course.passing[len(self.passed) :]  # by a greedy finish
        self.passed += [self._fitting(budget) for budget in jumped]
        if self.course.refill or self.cost > self.course.budget.kept:
            for name, n in self._fitting(self.course.budget).items():
                self.masks[name].keep(n)
        for mask in self.masks.values():
            mask.freeze()
        self.frozen_step = step
        start = self._restart(self.module, self.n) if self._restart else None
        self.restarted = start is not None
        if start is not None:
            self._load_weights(start)
            self._regroup(scores=None)  # the zeros of the new weights rank last

    def _give_up(self, step: int, why: str) -> None:
        """Prune greedily what is still too much, or raise `NotReachedError`."""
        if not self.course.greedy:
            raise NotReachedError(
                f"the search stands at {float(self.cost):.4f} of the prunable cost, above the "
                f"budget {self.course.budget}, and {why}: more steps, a larger budget or "
                "finish='greedy' would end it"
            )
        log.warning("the search stands at %.4f and %s: greedy finish", float(self.cost), why)
        self._freeze(step)

    @torch.no_grad()
    def _fitting(self, budget: Budget) -> dict[str, int]:
        """Sell units until N fits a budget, then buy what still fits, by priority per cost."""
        tables, droppable = self.course.tables, self.course.droppable
        priorities = dict(zip(tables, self._priorities().tolist(), strict=True))
        return allocate(tables, priorities, budget, self.n, droppable).n

    def _end_epoch(self, step: int) -> None:
        """Write the epoch's row, take new ranks and anneal, each in its turn."""
        epoch = len(self.history) + 1
        if epoch % self.course.regroup_epochs == 0 and step <= self.course.last_regroup:
            self._regroup(self._scores)
        row = {"step": step, "cost": float(self.cost), "lambda": self.annealing.penalty}
        loss = self._loss_sum / max(1, self._losses)
        self.history.append({**row, "task_loss": loss, "flips": self._flips})
        self._loss_sum, self._losses, self._flips = 0.0, 0, 0
        if self.frozen_step is None:
            left = (self.course.deadline - step) / self.course.epoch_steps
            costs = [self._first_cost, *(row["cost"] for row in self.history)]
            self.annealing.update(costs, left)
            if self.annealing.overflown:
                self._give_up(step, "lambda has stood at its cap for long")

    def _regroup(self, scores: Scores | None) -> None:
        """Rank the weights anew and count how many entries of the masks flip."""
        given = scores(self.module, self.masks) if scores else {}
        for name, mask in self.masks.items():
            layer, weight = prunable_layer(self.module, name), dense_weight(self.module, name)
            if name in given:
                ranked = ranks(given[name], layer, mask.m)
            else:
                ranked = magnitude_ranks(weight, layer, mask.m)
            self._flips += mask.regroup(ranked)

    def dead_weights(self) -> dict[Tensor, Callable[[], Tensor]]:
        """Return what `hold.held` wants: every weight with a function that masks its dead."""

        def dead(mask: RankMask) -> Callable[[], Tensor]:
            return lambda: ~mask.mask()

        return {dense_weight(self.module, n): dead(mask) for n, mask in self.masks.items()}

    @torch.no_grad()
    def _begin_at(self, start: Pruned) -> None:
        self._load_weights(start.module)
        self._regroup(scores=None)
        for name, mask in self.masks.items():
            n = start.patterns[name].n or 0
            mask.keep(n)
            for k in (mask.gate, *mask.priorities)[n:]:
                k.zero_()

    def _load_weights(self, plain: nn.Module) -> None:
        state = self.module.state_dict()
        for key, value in plain.state_dict().items():
            owner, _, kind = key.rpartition(".")
            worn = owner in self.masks and kind == "weight"
            state[f"{owner}.parametrizations.weight.original" if worn else key] = value
        self.module.load_state_dict(state)

    def epoch_start(self, epoch: int) -> None:
        pass  # the search has epochs of its own

    def finish(self) -> None:
        if self.frozen_step is None:
            self._give_up(self.course.deadline, "the run is over")

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
            "alive": [list(mask.alive) for mask in self.masks.values()],
            "annealing": self.annealing.state_dict(),
            "history": list(self.history),
            "passed": list(self.passed),
            "frozen": [self.frozen_step, self.restarted],
            "sums": [self._loss_sum, self._losses, self._flips],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mask, alive in zip(self.masks.values(), state["alive"], strict=True):
            mask.alive = tuple(alive)
        self.annealing.load_state_dict(state["annealing"])
        self.history = list(state["history"])
        self.passed = list(state["passed"])
        self.frozen_step, self.restarted = state["frozen"]
        self._loss_sum, self._losses, self._flips = state["sums"]
        if self.frozen_step is not None:
            for mask in self.masks.values():
                mask.freeze()
