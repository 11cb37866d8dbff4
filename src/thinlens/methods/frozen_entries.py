"""How does a pruned weight stay exactly where it is while its neighbours train?

Its gradient is zero, but an optimizer's momentum moves it all the same, and the moments decay.
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
def held(pruned: Mapping[Tensor, Callable[[], Tensor]]) -> Iterator[None]:
    """While open, no optimizer changes the entries of a parameter that its function names.

    `pruned` gives for a parameter a function that returns a bool mask, True where it is pruned;
    what the optimizer keeps per entry (moments) is held with it.
    """
    before: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def note(optimizer: Optimizer, *_: Any) -> None:
        for parameter, dead in pruned.items():
            mask = dead()
            for tensor in (parameter, *optimizer.state.get(parameter, {}).values()):
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    before.append((tensor, mask, tensor[mask]))

    @torch.no_grad()
    def restore(*_: Any) -> None:
        while before:
            tensor, mask, values = before.pop()
            tensor[mask] = values

    handles = [register_optimizer_step_pre_hook(note), register_optimizer_step_post_hook(restore)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
