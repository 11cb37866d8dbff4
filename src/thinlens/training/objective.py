"""Training objectives: the loss of a run, and hooks between its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}
"""Losses by the name of the setting `loss`: mean over all values of the image."""

ForwardFunction = Callable[[Tensor], Tensor]
"""A network's forward pass: image `[B, C, h, w]` to image."""


class TrainingData(Protocol):
    """Batches as a pure function, so that a resume needs no loader state."""

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return `(input, target)`, `[B, C, h, w]` and `[B, C, H, W]` in [0, 1].

        The same three numbers give the same batch, on every machine.
        """
        ...


def input_batch(data: TrainingData, seed: int, epoch: int, step: int) -> Tensor:
    """Return the input of a batch alone; data whose targets a network computes runs none."""
    read: Callable[[int, int, int], Tensor] | None = getattr(data, "input", None)
    return read(seed, epoch, step) if read else data.batch(seed, epoch, step)[0]


class Objective(Protocol):
    """The hooks of a training method in the loop."""

    module: nn.Module
    """The trained network; it may have parametrizations."""

    @property
    def finished(self) -> bool:
        """Whether the run may end before its last step; read after every step."""
        ...

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups."""
        ...

    def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the scalar to minimise. `network` runs `module`, on every rank."""
        ...

    def epoch_start(self, epoch: int) -> None:
        """Act before the first step of `epoch` (re-grouping, annealing)."""
        ...

    def after_step(self, step: int) -> None:
        """Act after the optimizer's step number `step`, counted from 1 (projection, freezing)."""
        ...

    def finish(self) -> None:
        """Act once after the last step."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return values that are logged beside the loss."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all state beside the module's that a resume needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of `state_dict`."""
        ...


class PlainObjective:
    """Minimise the task's loss and do nothing else: dense training, fine-tuning."""

    finished = False

    def __init__(self, module: nn.Module, loss: str = "l1") -> None:
        self.module = module
        self.task_loss = LOSSES[loss]

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        trained = [p for p in self.module.parameters() if p.requires_grad]
        return [{"params": trained, "lr": learning_rate}]

    def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
        image, target = batch
        return self.task_loss(network(image), target)

    def epoch_start(self, epoch: int) -> None:
        pass

    def after_step(self, step: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
