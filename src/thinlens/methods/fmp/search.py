"""How do channel vectors and weight indicators fall until a criterion is met? (FMP)

An `Objective`: Adam steps on everything, the task's loss alone; after every step the vectors, and
if wished the indicators, take a proximal step for their L1 penalties. What is under its threshold
counts as dead; once the dead take enough, the search is over.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.errors import RunError
from thinlens.methods.fmp.hypernetwork import Hypernetwork
from thinlens.methods.fmp.selection import Goal, Landing, Ledger, Values
from thinlens.training.objective import Network
from thinlens.training.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Course:
    """How a search goes; see `Fmp` for what its settings mean."""

    goal: Goal
    settings: Settings
    """The stage's own, whose learning rate is a factor of every proximal step."""
    channel_penalty: float
    weight_penalty: float
    proximal_weights: bool
    """Whether indicators take proximal steps too; else their penalty is in the loss."""
    channel_threshold: float
    weight_threshold: float
    greedy: bool

    def rate(self, step: int) -> float:
        """Return the learning rate of step number `step`, counted from 1."""
        return self.settings.learning_rate * self.settings.rate(step - 1)


class Search:
    """Train a hypernetwork until its dead meet the goal."""

    def __init__(
        self, module: Hypernetwork, ledger: Ledger, course: Course, owners: Mapping[int, str]
    ) -> None:
        """`owners` names a layer for every label, to complain by."""
        self.module: nn.Module = module
        self.hypernetwork = module
        self.course = course
        self.landing: Landing | None = None
        self.landed_step: int | None = None
        self._ledger, self._owners = ledger, owners
        self._parts = (Fraction(0), Fraction(0))
        self._task_loss = torch.zeros(())

    @property
    def finished(self) -> bool:
        return self.landing is not None

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return [{"params": trained, "lr": learning_rate}]

    def loss(self, network: Network, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, target = batch
        task = (network(image) - target).abs().mean()
        self._task_loss = task.detach()
        if self.course.proximal_weights:
            return task
        penalty = torch.stack([x.abs().sum() for x in self.hypernetwork.indicators()]).sum()
        return task + self.course.weight_penalty * penalty

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        pulls = self._pulls(step)
        values = self._values(pulls)
        self._parts = self._ledger.judge(values)
        if self.course.goal.met(*self._parts):
            self._land(step, values, greedy=False)
        else:
            self._shrink(pulls)
            self._refuse_extinct(step)

    def _pulls(self, step: int) -> tuple[float, float]:
        """Return lambda times the learning rate for vectors and indicators.

        Where weights have a goal, channels are not pulled once they have taken what they may; nor
        are weights that have met theirs while channels have not.
        """
        course, goal, rate = self.course, self.course.goal, self.course.rate(step)
        channels = rate * course.channel_penalty
        weights = rate * course.weight_penalty if course.proximal_weights else 0.0
        if goal.most_channels is not None and self._parts[0] >= goal.most_channels:
            channels = 0.0
        if goal.weights is not None and self._parts[1] >= goal.weights:
            weights = 0.0
        return channels, weights

    def _values(self, pulls: tuple[float, float]) -> Values:
        """Return sizes before a proximal step with the thresholds that it takes them under: what
        dies in one step is then still in order."""
        return Values(
            self.hypernetwork.vector.detach().abs().cpu(),
            [x.detach().abs() for x in self.hypernetwork.indicators()],
            self.course.channel_threshold + pulls[0],
            self.course.weight_threshold + pulls[1],
        )

    def _shrink(self, pulls: tuple[float, float]) -> None:
        """Take the proximal steps; a family of channels that can lose no more takes none."""
        vector = self.hypernetwork.vector
        sizes = vector.detach().abs().cpu()
        held = self._ledger.at_least(sizes, self.course.channel_threshold)
        shrink(vector, pulls[0], held.to(vector.device))
        if self.course.proximal_weights:
            for indicator in self.hypernetwork.indicators():
                shrink(indicator, pulls[1])

    def _refuse_extinct(self, step: int) -> None:
        sizes = self.hypernetwork.vector.detach().abs().cpu()
        label = self._ledger.extinct(sizes, self.course.channel_threshold)
        if label is not None:
            raise RunError(
                f"the channel vector of layer {self._owners[label]!r} died out at step {step}: "
                "wanted a lower channel_penalty or learning rate"
            )

    def _land(self, step: int, values: Values, *, greedy: bool) -> None:
        self.landing = self._ledger.land(values, self.course.goal, greedy=greedy)
        self.landed_step = step
        self._parts = (self.landing.channels, self.landing.weights)

    def epoch_start(self, epoch: int) -> None:
        pass

    def finish(self) -> None:
        if self.landing is not None:
            return
        said = (
            f"the search ended with {float(self._parts[0]):.2%} removed by channels and "
            f"{float(self._parts[1]):.2%} by weights, short of its criterion"
        )
        if not self.course.greedy:
            raise RunError(f"{said}: more steps, higher penalties or finish='greedy' would end it")
        log.warning("%s: thresholds are raised", said)
        self._land(self.course.settings.steps, self._values((0.0, 0.0)), greedy=True)

    def metrics(self) -> dict[str, float]:
        channels, weights = (float(part) for part in self._parts)
        return {
            "task_loss": float(self._task_loss),
            "channels": channels,
            "weights": weights,
            "left": 1 - channels - weights,
        }

    def state_dict(self) -> dict[str, Any]:
        landing = self.landing
        return {
            "step": self.landed_step,
            "parts": [str(part) for part in self._parts],
            "landing": landing and [landing.dead, landing.masks, landing.n],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        channels, weights = (Fraction(part) for part in state["parts"])
        self._parts, self.landed_step = (channels, weights), state["step"]
        if state["landing"] is not None:
            dead, masks, n = state["landing"]
            self.landing = Landing(dead, masks, n, channels, weights)


@torch.no_grad()
def shrink(values: Tensor, pull: float, held: Tensor | None = None) -> None:
    """Bring every entry nearer to 0 by `pull`, and no further: the proximal step of an L1 penalty.

    Entries that are `held` stay.
    """
    shrunk = F.softshrink(values, pull)
    values.copy_(shrunk if held is None else torch.where(held, values, shrunk))
