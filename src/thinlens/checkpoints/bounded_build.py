"""Construction of networks of other packages within bounded memory, from untrusted parameters.

Constructors of other packages compute with what they create (positions, masks, drop rates), so the
meta device does not suffice. Here small tensors are real and large ones have no memory, and every
parameter loses its memory when it is registered: a module comes out whose names and shapes can be
compared with a file before any large tensor is made.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from thinlens.errors import UsageError
from thinlens.models.dispatch_mode import DispatchMode

LARGEST_REAL = 2**20
"""Elements of the largest tensor that has memory."""

MOST_COMPUTED = 2**28
"""Elements that all operations of a construction compute, at most."""

MOST_MODULES = 16
"""Modules or buffers that are registered per tensor of the file, at most: layers without weights
stand beside those that have some."""

aten = torch.ops.aten

RANDOM_FILLS = frozenset({"uniform_", "normal_", "bernoulli_", "exponential_", "random_"})
"""Operations that are skipped: initial values do not matter here."""


class _Bounded(DispatchMode):
    """Run small operations, and give the results of large ones a shape only."""

    def __init__(self) -> None:
        super().__init__()
        self._remaining = MOST_COMPUTED

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        name = func.overloadpacket.__name__
        if name in RANDOM_FILLS and tensors:
            return tensors[0]
        if any(x.is_meta for x in tensors) or self._is_large(func, args, kwargs):
            if name == "_local_scalar_dense":
                raise UsageError("its parameters ask for a value of a tensor that is too large")
            shaped = _without_memory(func, args, kwargs)
            changes_real = func._schema.is_mutable and tensors and not tensors[0].is_meta
            return tensors[0] if changes_real else shaped
        return func(*args, **kwargs)

    def _is_large(self, func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
        if func.overloadpacket.__name__.endswith("_") or func in (aten.detach.default,):
            return False  # the result is what was there
        try:
            results = pytree.tree_leaves(_without_memory(func, args, kwargs))
            numbers = [x.numel() for x in results if isinstance(x, Tensor)]
        except Exception:  # an operation whose result depends on values: it reads what is small
            numbers = [x.numel() for x in pytree.tree_leaves(args) if isinstance(x, Tensor)]
        if max(numbers, default=0) > LARGEST_REAL:
            return True
        self._remaining -= sum(numbers)
        if self._remaining < 0:
            raise UsageError("its parameters ask for too much computation")
        return False


class _Assignments(TorchFunctionMode):
    """Let `parameter.data = values` pass for a parameter without memory."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assigns = getattr(func, "__name__", "") == "__set__"
        if assigns and args[0].is_meta and isinstance(args[1], Tensor) and not args[1].is_meta:
            args = (args[0], torch.empty_like(args[1], device="meta"))
        return func(*args, **(kwargs or {}))


def _without_memory(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the meta device, where only shapes are computed."""

    def shaped(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.is_meta:
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

    args, kwargs = pytree.tree_map(shaped, (args, dict(kwargs)))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs["device"] = torch.device("meta")
    return func(*args, **kwargs)


@contextmanager
def at_most(registrations: int) -> Iterator[None]:
    """Refuse to register more parameters than this while the context is open, in this thread."""
    remaining, builder = registrations, threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal remaining
        remaining -= threading.get_ident() == builder
        if remaining < 0:
            raise UsageError("its config has more tensors than the file holds")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def bounded_build(registrations: int) -> Iterator[None]:
    """Build networks in this context without memory for their parameters.

    More than `registrations` parameters, or `MOST_MODULES` times as many modules or buffers, are a
    `UsageError`. Initial values are arbitrary.
    """
    shapes: dict[int, tuple[weakref.ref[Any], nn.Parameter]] = {}
    remaining, builder = MOST_MODULES * registrations, threading.get_ident()

    def drop_memory(module: nn.Module, name: str, value: Any) -> Any:
        if threading.get_ident() != builder or value is None or value.is_meta:
            return None
        known, shaped = shapes.get(id(value), (None, None))
        if known is None or known() is not value:
            shaped = nn.Parameter(
                torch.empty_like(value, device="meta"), requires_grad=value.requires_grad
            )
            shapes[id(value)] = weakref.ref(value), shaped
        return shaped

    def count(module: nn.Module, name: str, value: Any) -> None:
        nonlocal remaining
        remaining -= threading.get_ident() == builder
        if remaining < 0:
            raise UsageError("its config has more layers than the file holds")

    handles = [
        register_module_parameter_registration_hook(drop_memory),
        register_module_module_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        with at_most(registrations), _Bounded(), _Assignments():
            yield
    finally:
        for handle in handles:
            handle.remove()
