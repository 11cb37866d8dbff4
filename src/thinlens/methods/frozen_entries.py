"""Frozen entries: keep pruned entries of a parameter unchanged through optimizer steps.

The gradient of a pruned weight is zero, but an optimizer's momentum still moves it, and its
moments decay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)


@contextmanager
def freeze_entries(masks: Mapping[Tensor, Callable[[], Tensor]]) -> Iterator[None]:
    """Undo, within the context, what any optimizer step does to the masked entries of parameters.

    `masks` holds for each parameter a function that returns a bool mask, True where an entry is
    frozen. Optimizer state of the parameter's shape (moments) is frozen at the same entries.
    """
    saved: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def save(optimizer: Optimizer, *_: Any) -> None:
        for parameter, current_mask in masks.items():
            mask = current_mask()
            for tensor in (parameter, *optimizer.state.get(parameter, {}).values()):
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    saved.append((tensor, mask, tensor[mask]))

    @torch.no_grad()
    def restore(*_: Any) -> None:
        while saved:
            tensor, mask, values = saved.pop()
            tensor[mask] = values

    handles = [register_optimizer_step_pre_hook(save), register_optimizer_step_post_hook(restore)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
