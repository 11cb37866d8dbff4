"""Dry runs on the meta device, and a tracer of ATen operations.

A dry run calls the network once on tensors that have shapes but no values; it lists the calls of
its leaf modules. `OpTracer` is the base of what follows single operations (channel ids, the
engine's graph).
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thinlens.errors import UsageError
from thinlens.models.dispatch_mode import DispatchMode
from thinlens.models.trial_run import trial_run

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    name: str
    module: nn.Module
    """The module in the copy that ran: read its attributes, not its values."""
    input_shape: torch.Size
    output_shape: torch.Size


@dataclass(frozen=True)
class DryRun:
    """The calls and outputs of one forward pass."""

    calls: list[Call]
    """The calls of modules that have no children, in the order they ended."""
    outputs: list[torch.Size]
    """The shapes of the tensors that the network returned."""
    single: bool = True
    """Whether it returned one tensor, and not a list, a tuple or a dictionary."""
    writes_input: bool = False
    """Whether it changed the image that it ran on."""


def dry_run(model: nn.Module, example: Sequence[int]) -> DryRun:
    """Run a copy of `model` once on an input shaped `example`; `model` is not changed.

    A trial run (`trial_run`): without values where that suffices. Raises `UsageError` if it fails.

    >>> dry_run(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (1, 3, 16, 16)).outputs
    [torch.Size([1, 8, 14, 14])]
    """
    try:
        return trial_run(model, example, _forward)
    except Exception as error:  # whatever a network raises
        raise _cannot_run(model, example, error) from error


def _cannot_run(model: nn.Module, example: Sequence[int], error: Exception) -> UsageError:
    """Return the sentence for a network that fails on an image, with the remedy if it is known."""
    parameters = inspect.signature(model.forward).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind in _POSITIONAL]
    if len(required) > 1:
        return UsageError(
            f"{type(model).__name__} takes {len(required)} inputs ({', '.join(required)}): wanted "
            "a network of one image; wrap it in an nn.Module whose forward(image) calls it with "
            f"{' and '.join(required[1:])} fixed"
        )
    return UsageError(f"the network cannot run on an input of shape {tuple(example)}: {error}")


def _forward(model: nn.Module, image: Tensor) -> DryRun:
    calls: list[Call] = []

    def watch(name: str, module: nn.Module) -> None:
        def note(_: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
            first = next(iter((*inputs, *named.values())), None)
            if isinstance(first, Tensor) and isinstance(output, Tensor):
                calls.append(Call(name, module, first.shape, output.shape))

        module.register_forward_hook(note, with_kwargs=True)

    for name, module in model.named_modules():
        if is_leaf(name, module):
            watch(name, module)
    image = image.clone()
    result = model(image)
    shapes = [x.shape for x in tree_leaves(result) if isinstance(x, Tensor)]
    writes_input = image._version > 0
    return DryRun(calls, shapes, isinstance(result, Tensor), writes_input)


@contextmanager
def runnable(shape: Sequence[int]) -> Iterator[None]:
    """Raise a failure inside as a `UsageError`: the network cannot run on an input of `shape`."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"the network cannot run on an input of shape {tuple(shape)}: {error}"
        ) from error


def is_leaf(name: str, module: nn.Module) -> bool:
    """Return whether `module` computes by itself: it has no children but parametrizations."""
    inside_parametrization = "parametrizations" in name.split(".")
    return not inside_parametrization and all(
        child == "parametrizations" for child, _ in module.named_children()
    )


class OpTracer(DispatchMode):
    """Pass every ATen operation inside the context to `record`.

    All tensors stay in memory, so `id(tensor)` names one tensor for as long as the tracer exists.
    """

    def __init__(self) -> None:
        super().__init__()
        self._references: list[Any] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._references += [args, kwargs, result]
        self.record(func, args, kwargs or {}, result)
        return result

    @abstractmethod
    def record(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Follow one operation that was called with `args` and `kwargs`; see `bind_arguments`."""
