"""Data-parallel training on several processes (torchrun)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from thinlens.errors import RunError, UsageError
from thinlens.file_locks import exclusive_folder
from thinlens.torchrun import is_main_process, process_count
from thinlens.training.ended_processes import EndedProcesses

log = logging.getLogger(__name__)

_Value = TypeVar("_Value")


def from_main(compute: Callable[[], _Value]) -> _Value:
    """Return what the main process computes, on every process: measured times differ otherwise."""
    if process_count() == 1:
        return compute()
    processes = Processes("fp32")
    value: _Value = processes.broadcast(compute() if processes.is_main else None)
    return value


def exclusive_run(folder: Path | None) -> AbstractContextManager[None]:
    """Keep other runs out of a run's folder, by the main process of this one; `RunError` where one
    is at work. None is no folder.
    """
    if folder is None or not is_main_process():
        return nullcontext()
    return exclusive_folder(folder)


_watches: list[EndedProcesses] = []
"""The one of this process, once it is connected to others."""


def attempt_store() -> tuple[Any, int, int]:
    """Return the store that torchrun's processes share, this one's rank, and their number.

    It is this attempt's part of the store: torchrun shares one among all attempts, in which killed
    processes left addresses.
    """
    store, rank, count = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    part = f"thinlens-attempt-{attempt}"
    return distributed.PrefixStore(part, store), rank, count  # type: ignore[attr-defined]


def _connect() -> None:
    """Connect to the other processes."""
    if distributed.is_initialized():
        return
    own, rank, count = attempt_store()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=own, rank=rank, world_size=count)
    _watches[:] = [EndedProcesses(own, rank, count)]


class Processes:
    """The processes that `torchrun` started; without it, this one alone.

    Gradients are averaged after the backward pass instead of by DDP's hooks, so an objective may
    freeze parameters during a run, not use some, or call its module twice, as on one process.
    """

    def __init__(self, precision: str) -> None:
        from lightning_fabric import Fabric  # slow to import, and only training needs it

        world = process_count()
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        self._fabric = Fabric(
            accelerator="auto",
            devices=local,
            num_nodes=world // local,
            strategy="ddp" if world > 1 else "auto",
            precision="bf16-mixed" if precision == "bf16" else "32-true",
        )
        if world > 1:
            _connect()
        self._fabric.launch()
        self.device: torch.device = self._fabric.device
        self.rank: int = self._fabric.global_rank
        self.count: int = self._fabric.world_size
        self.is_main = self.rank == 0
        """Whether this process writes the files."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the run's precision."""
        context: AbstractContextManager[Any] = self._fabric.autocast()
        return context

    def seed(self, seed: int, step: int) -> None:
        """Seed torch's generator from (seed, step, rank) alone.

        So dropout needs no saved state for a bit-identical resume.
        """
        words = np.random.SeedSequence((seed, step, self.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]))

    def shard(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return this process's shard of a batch, on its device."""
        size = batch[0].shape[0]
        if size % self.count:
            raise UsageError(f"{self.count} processes cannot split a batch of {size} evenly")
        image, target = (tensor[self.rank :: self.count] for tensor in batch)
        return self._to_device(image), self._to_device(target)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if tensor.ndim == 4:  # convolutions are fastest in this layout
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor.to(self.device)

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.count == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        for parameter in trained:
            if parameter.grad is None:  # used by another process alone, or by none
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in trained if p.grad is not None]
        with self._naming_those_that_ended():
            flat: Any = self._fabric.all_reduce(torch.cat([g.reshape(-1) for g in gradients]))
        means = flat.split([g.numel() for g in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def gather(self, *values: Tensor | float) -> Tensor:
        """Return the values of all processes, `[processes, len(values)]`, on every process."""
        rows = torch.zeros(self.count, len(values), device=self.device)
        rows[self.rank] = torch.stack([torch.as_tensor(v).detach().to(rows) for v in values])
        if self.count > 1:
            with self._naming_those_that_ended():
                self._fabric.all_reduce(rows, reduce_op="sum")  # in place: all others added zero
        return rows

    def broadcast(self, value: Any) -> Any:
        """Return the main process's `value` on every process."""
        with self._naming_those_that_ended():
            return self._fabric.broadcast(value)

    def synchronize(self, module: nn.Module) -> None:
        """Copy the main process's weights and buffers to every process."""
        if self.count > 1:
            state = {name: value.cpu() for name, value in module.state_dict().items()}
            module.load_state_dict(self.broadcast(state))

    def barrier(self) -> None:
        """Wait until every process has called this."""
        with self._naming_those_that_ended():
            self._fabric.barrier()

    @contextmanager
    def _naming_those_that_ended(self) -> Iterator[None]:
        """Turn a broken connection into a `RunError` that names the processes that ended."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1:
                raise
            ended = _watches[0].ranks()
            which = " and ".join(map(str, ended)) or "another"
            sentence = f"process {which} of {self.count} (from 0) ended: the others stop"
            log.error("%s, the same command goes on from the last saved step", sentence)
            raise RunError(sentence) from error


@contextmanager
def training_mode(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Keep `module` on `device`, in training mode and channels-last, inside the context.

    Afterwards it is on its previous device, in evaluation mode and contiguous, also after an
    exception. The state of torch's generator is restored.
    """
    device_before = next((p.device for p in module.parameters()), device)
    with torch.random.fork_rng(devices=[]):
        try:
            module.train().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            yield
        finally:
            module.eval().to(device=device_before, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
