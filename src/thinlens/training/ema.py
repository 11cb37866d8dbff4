"""Exponential moving average of a module's weights during training.

Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thinlens.training.settings import Settings


class ModelEma:
    """The exponential moving average of a module's parameters and batch statistics.

    Its time constant is the fraction `settings.average` of the run. Until that many steps are done
    it is their plain mean, so the initial weights do not enter it.
    """

    def __init__(self, module: nn.Module, settings: Settings) -> None:
        self._horizon = max(1, round(settings.average * settings.steps))
        self._averaged = _floating(module)
        self._means = [value.clone() for value in self._averaged]
        self._count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Add the module's current values to the average."""
        self._count += 1
        weight = 1 / min(self._count, self._horizon)
        torch._foreach_lerp_(self._means, self._averaged, weight)

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Copy the average into the module, if there was a step."""
        if self._count:
            torch._foreach_copy_(self._averaged, self._means)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resume."""
        return {"means": self._means, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of `state_dict`."""
        torch._foreach_copy_(self._means, list(state["means"]))
        self._count = state["count"]


def _floating(module: nn.Module) -> list[Tensor]:
    """Return the floating-point parameters and buffers, as views that share their memory."""
    values = [*module.parameters(), *module.buffers()]
    return [value.detach() for value in values if value.is_floating_point()]
