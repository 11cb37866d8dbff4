"""Copies of networks that `copy.deepcopy` refuses, and copies without values."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from thinlens.errors import UsageError


def copy_network(module: nn.Module) -> nn.Module:
    """Return a deep copy of a network; `module` is not changed.

    Tensors that an earlier forward pass left in attributes, such as a last output, are copied
    without their history, which `copy.deepcopy` refuses. Raises a `UsageError` that names the
    attribute which cannot be copied.

    >>> import torch
    >>> class Recording(nn.Conv2d):
    ...     def forward(self, image):
    ...         self.last = super().forward(image)
    ...         return self.last
    >>> network = Recording(1, 1, 1)
    >>> _ = network(torch.ones(1, 1, 2, 2))
    >>> copy_network(network).last.requires_grad
    False
    """
    memo: dict[int, Any] = {}
    for layer in module.modules():
        for tensor in _tensors(vars(layer)):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # any object may refuse in its own way
        raise UsageError(
            f"{type(module).__name__} cannot be copied, because of its attribute "
            f"{_uncopyable(module)}: {error}"
        ) from error


def meta_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the meta device: tensors with shapes but no values, plain attributes too.

    >>> import torch
    >>> network = nn.Conv2d(1, 1, 1)
    >>> network.mean = torch.zeros(1, 1, 1, 1)
    >>> meta_copy(network).mean.device.type
    'meta'
    """
    memo: dict[int, Any] = {}
    for layer in module.modules():
        for parameter in layer._parameters.values():
            if parameter is not None:
                values = parameter.detach().to("meta")
                memo[id(parameter)] = nn.Parameter(values, parameter.requires_grad)
        for tensor in _tensors(vars(layer)):
            memo[id(tensor)] = tensor.detach().to("meta")
    return copy.deepcopy(module, memo).to("meta")


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a value and of the lists, tuples and dictionaries in it."""
    if isinstance(value, nn.Parameter):
        return
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in list(value.values()):
            yield from _tensors(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors(entry)


def _uncopyable(module: nn.Module, prefix: str = "") -> str:
    """Return the path of the first attribute that cannot be copied."""
    for name, value in vars(module).items():
        if name in ("_modules", "_parameters", "_buffers"):
            continue
        try:
            copy.deepcopy(value)
        except Exception:
            return repr(f"{prefix}{name}")
    for name, child in module.named_children():
        try:
            copy.deepcopy(child)
        except Exception:
            return _uncopyable(child, f"{prefix}{name}.")
    return "whose name is not known"
