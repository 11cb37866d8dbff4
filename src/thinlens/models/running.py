"""Running networks of any package: in evaluation mode, on images of the type of their weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(network: object) -> Iterator[None]:
    """Put a module into evaluation mode; restore the mode of every submodule afterwards.

    Other callables, such as a compiled engine, have no mode.

    >>> network = nn.Sequential(nn.Dropout())
    >>> with evaluating(network):
    ...     network[0].training
    False
    >>> network[0].training
    True
    """
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    training = [module for module in modules if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def weight_like(module: nn.Module) -> Tensor:
    """Return a tensor of the type and on the device of a network's weights, if it has any.

    `weight_like(module).new_zeros(shape)` is an image that it takes.

    >>> weight_like(nn.Conv2d(3, 3, 3).half()).dtype
    torch.float16
    """
    return next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
