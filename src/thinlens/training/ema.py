"""How does a run end with the mean of its last weights? (Polyak & Juditsky, 1992)"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thinlens.training.settings import Settings


class ModelEma:
    """An exponential moving average of what a module learns, and of its batch statistics.

    Its time constant is `settings.average` of the run. Until that many steps are done it is their
    plain mean, so that the weights from which a run starts have no weight in it.
    """

    def __init__(self, module: nn.Module, settings: Settings) -> None:
        self._horizon = max(1, round(settings.average * settings.steps))
        self._averaged = _floating(module)
        self._means = [value.clone() for value in self._averaged]
        self._count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Let what the module holds now take part."""
        self._count += 1
        share = 1 / min(self._count, self._horizon)
        torch._foreach_lerp_(self._means, self._averaged, share)

    @torch.no_grad()
    def give(self) -> None:
        """Put the mean in the module's place, if there was a step."""
        if self._count:
            torch._foreach_copy_(self._averaged, self._means)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs."""
        return {"means": self._means, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        torch._foreach_copy_(self._means, list(state["means"]))
        self._count = state["count"]


def _floating(module: nn.Module) -> list[Tensor]:
    """List parameters and buffers that can be averaged, as views that writing changes."""
    values = [*module.parameters(), *module.buffers()]
    return [value.detach() for value in values if value.is_floating_point()]
