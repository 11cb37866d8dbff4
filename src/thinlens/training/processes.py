"""How do several processes train as one?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thinlens.errors import UsageError


class Processes:
    """This process and its peers, started by `torchrun`; without it, one process alone.

    Gradients are averaged after the backward pass instead of by DDP's hooks, so an objective may
    freeze parameters half way, leave some unused or call its module twice, as on one process.
    """

    def __init__(self, precision: str) -> None:
        from lightning_fabric import Fabric  # heavy: only training pays for it

        world = int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        self._fabric = Fabric(
            accelerator="auto",
            devices=local,
            num_nodes=world // local,
            strategy="ddp" if world > 1 else "auto",
            precision="bf16-mixed" if precision == "bf16" else "32-true",
        )
        self._fabric.launch()
        self.device: torch.device = self._fabric.device
        self.rank: int = self._fabric.global_rank
        self.count: int = self._fabric.world_size
        self.chief = self.rank == 0
        """Whether this process writes the files."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the run's precision."""
        context: AbstractContextManager[Any] = self._fabric.autocast()
        return context

    def seed(self, seed: int, step: int) -> None:
        """Make what a step draws from torch's generator depend on nothing but (seed, step, rank).

        So dropout and the like need no saved state for a bit-identical resume.
        """
        words = np.random.SeedSequence((seed, step, self.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]))

    def share(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return this process's part of a batch, on its device."""
        size = batch[0].shape[0]
        if size % self.count:
            raise UsageError(f"{self.count} processes cannot share a batch of {size} evenly")
        image, target = (part[self.rank :: self.count] for part in batch)
        return self._placed(image), self._placed(target)

    def _placed(self, part: Tensor) -> Tensor:
        if part.ndim == 4:  # the layout that convolutions like
            part = part.contiguous(memory_format=torch.channels_last)
        return part.to(self.device)

    def average(self, parameters: list[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.count == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        for parameter in trained:
            if parameter.grad is None:  # used by another process alone, or by none
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in trained if p.grad is not None]
        flat: Any = self._fabric.all_reduce(torch.cat([g.reshape(-1) for g in gradients]))
        means = flat.split([g.numel() for g in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def gather(self, *values: Tensor | float) -> Tensor:
        """Return everyone's numbers, `[processes, len(values)]`, the same on every process."""
        rows = torch.zeros(self.count, len(values), device=self.device)
        rows[self.rank] = torch.stack([torch.as_tensor(v).detach().to(rows) for v in values])
        if self.count > 1:
            self._fabric.all_reduce(rows, reduce_op="sum")  # in place: all others added zero
        return rows

    def agree(self, value: Any) -> Any:
        """Return the chief's `value` on every process."""
        return self._fabric.broadcast(value)

    def equalize(self, module: nn.Module) -> None:
        """Give every process the chief's weights and buffers."""
        if self.count > 1:
            mine = {name: value.cpu() for name, value in module.state_dict().items()}
            module.load_state_dict(self.agree(mine))

    def wait(self) -> None:
        """Return when every process has come here."""
        self._fabric.barrier()


@contextmanager
def training_mode(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Hold `module` on `device`, in training mode and channels-last; then make it plain again.

    Afterwards it is back where it was, in evaluation mode and contiguous, whatever happened.
    Torch's generator goes on as if nothing had been drawn.
    """
    home = next((p.device for p in module.parameters()), device)
    with torch.random.fork_rng(devices=[]):
        try:
            module.train().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            yield
        finally:
            module.eval().to(device=home, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
