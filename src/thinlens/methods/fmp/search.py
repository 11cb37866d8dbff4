"""FMP search: proximal L1 steps on channel vectors and weight indicators until a target is met.

An `Objective`: Adam steps on all parameters for the task's loss alone; after every step the
vectors, and optionally the indicators, take a proximal step for their L1 penalties. Entries below
their threshold count as pruned; once they remove enough cost, the search ends.
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
from thinlens.methods.fmp.cost_tracker import CostTracker, Magnitudes
from thinlens.methods.fmp.hypernetwork import Hypernetwork
from thinlens.methods.fmp.selection import Selection, Target, select
from thinlens.training.objective import ForwardFunction
from thinlens.training.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FmpSearchConfig:
    """Target, penalties and thresholds of a search; see `Fmp` for its options."""

    target: Target
    settings: Settings
    """Those of the search stage, whose learning rate is a factor of every proximal step."""
    channel_penalty: float
    weight_penalty: float
    proximal_weights: bool
    """Whether indicators take proximal steps too; else their penalty is in the loss."""
    channel_threshold: float
    weight_threshold: float
    greedy: bool

    def rate(self, step: int) -> float:
        """Return the learning rate of step number `step`, counted from 1."""
        return self.settings.learning_rate * self.settings.lr_factor(step - 1)


class FmpSearch:
    """Train a hypernetwork until its pruned channels and weights meet the target."""

    def __init__(
        self,
        module: Hypernetwork,
        tracker: CostTracker,
        config: FmpSearchConfig,
        layer_names: Mapping[int, str],
    ) -> None:
        """`layer_names` holds a layer for every channel id, for error messages."""
        self.module: nn.Module = module
        self.hypernetwork = module
        self.config = config
        self.selection: Selection | None = None
        self.selected_step: int | None = None
        self._tracker, self._layer_names = tracker, layer_names
        self._removed = (Fraction(0), Fraction(0))
        self._task_loss = torch.zeros(())

    @property
    def finished(self) -> bool:
        return self.selection is not None

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return [{"params": trained, "lr": learning_rate}]

    def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, target = batch
        task = (network(image) - target).abs().mean()
        self._task_loss = task.detach()
        if self.config.proximal_weights:
            return task
        penalty = torch.stack([x.abs().sum() for x in self.hypernetwork.indicators()]).sum()
        return task + self.config.weight_penalty * penalty

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        step_sizes = self._step_sizes(step)
        magnitudes = self._magnitudes(step_sizes)
        self._removed = self._tracker.removed(magnitudes)
        if self.config.target.met(*self._removed):
            self._select(step, magnitudes, greedy=False)
        else:
            self._shrink(step_sizes)
            self._check_vanished(step)

    def _step_sizes(self, step: int) -> tuple[float, float]:
        """Return lambda times the learning rate for vectors and indicators.

        A penalty is switched off once its target (or the channels' upper bound) is reached.
        """
        config, target, rate = self.config, self.config.target, self.config.rate(step)
        channels = rate * config.channel_penalty
        weights = rate * config.weight_penalty if config.proximal_weights else 0.0
        if target.max_channels is not None and self._removed[0] >= target.max_channels:
            channels = 0.0
        if target.weights is not None and self._removed[1] >= target.weights:
            weights = 0.0
        return channels, weights

    def _magnitudes(self, step_sizes: tuple[float, float]) -> Magnitudes:
        """Return the magnitudes before a proximal step, with threshold + step size as thresholds:
        entries zeroed in the same step keep their ranking."""
        return Magnitudes(
            self.hypernetwork.vector.detach().abs().cpu(),
            [x.detach().abs() for x in self.hypernetwork.indicators()],
            self.config.channel_threshold + step_sizes[0],
            self.config.weight_threshold + step_sizes[1],
        )

    def _shrink(self, step_sizes: tuple[float, float]) -> None:
        """Take the proximal steps; a coupled group at its minimum of channels takes none."""
        vector = self.hypernetwork.vector
        sizes = vector.detach().abs().cpu()
        fixed = self._tracker.at_minimum(sizes, self.config.channel_threshold)
        proximal_step(vector, step_sizes[0], fixed.to(vector.device))
        if self.config.proximal_weights:
            for indicator in self.hypernetwork.indicators():
                proximal_step(indicator, step_sizes[1])

    def _check_vanished(self, step: int) -> None:
        sizes = self.hypernetwork.vector.detach().abs().cpu()
        channel = self._tracker.vanished(sizes, self.config.channel_threshold)
        if channel is not None:
            name = self._layer_names[channel]
            raise RunError(
                f"the channel vector of layer {name!r} vanished at step {step}: "
                "wanted a lower channel_penalty or learning rate"
            )

    def _select(self, step: int, magnitudes: Magnitudes, *, greedy: bool) -> None:
        self.selection = select(self._tracker, magnitudes, self.config.target, greedy=greedy)
        self.selected_step = step
        self._removed = (self.selection.channels, self.selection.weights)

    def epoch_start(self, epoch: int) -> None:
        pass

    def finish(self) -> None:
        if self.selection is not None:
            return
        message = (
            f"the search ended with {float(self._removed[0]):.2%} removed by channels and "
            f"{float(self._removed[1]):.2%} by weights, short of its criterion"
        )
        if not self.config.greedy:
            raise RunError(
                f"{message}: more steps, higher penalties or finish='greedy' would end it"
            )
        log.warning("%s: thresholds are raised", message)
        self._select(self.config.settings.steps, self._magnitudes((0.0, 0.0)), greedy=True)

    def metrics(self) -> dict[str, float]:
        channels, weights = (float(x) for x in self._removed)
        return {
            "task_loss": float(self._task_loss),
            "channels": channels,
            "weights": weights,
            "left": 1 - channels - weights,
        }

    def state_dict(self) -> dict[str, Any]:
        selection = self.selection
        return {
            "step": self.selected_step,
            "parts": [str(x) for x in self._removed],
            "landing": selection and [selection.pruned, selection.masks, selection.n],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        channels, weights = (Fraction(x) for x in state["parts"])
        self._removed, self.selected_step = (channels, weights), state["step"]
        if state["landing"] is not None:
            pruned, masks, n = state["landing"]
            self.selection = Selection(pruned, masks, n, channels, weights)


@torch.no_grad()
def proximal_step(values: Tensor, step_size: float, fixed: Tensor | None = None) -> None:
    """Soft-threshold `values` by `step_size` in place: the proximal step of an L1 penalty.

    Entries that are `fixed` do not change.
    """
    shrunk = F.softshrink(values, step_size)
    values.copy_(shrunk if fixed is None else torch.where(fixed, values, shrunk))
