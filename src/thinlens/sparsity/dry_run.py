"""What happens in one forward of a network, seen without computing it?"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thinlens.errors import UsageError


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
    """What a forward did."""

    calls: list[Call]
    """The calls of modules that have no children, in the order they ended."""
    outputs: list[torch.Size]
    """The shapes of the tensors that the network returned."""


def dry_run(model: nn.Module, example: Sequence[int]) -> DryRun:
    """Run a copy of `model` once on an input shaped `example`; `model` is not touched.

    The copy lives on the meta device, where tensors have shapes but no values; a network that
    looks at values runs on its own device, on zeros. Raises `UsageError` if it runs on neither.
    """
    kind = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    try:
        image = torch.empty(*example, dtype=kind.dtype, device="meta")
        return _forward(copy.deepcopy(model).to("meta"), image)
    except Exception:  # whatever the meta device cannot do, the real one is asked
        try:
            return _forward(copy.deepcopy(model), kind.new_zeros(tuple(example)))
        except Exception as error:
            raise UsageError(
                f"the network cannot run on an input of shape {tuple(example)}: {error}"
            ) from error


@torch.no_grad()
def _forward(model: nn.Module, image: Tensor) -> DryRun:
    calls: list[Call] = []

    def watch(name: str, module: nn.Module) -> None:
        def note(_: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
            first = next(iter((*inputs, *named.values())), None)
            if isinstance(first, Tensor) and isinstance(output, Tensor):
                calls.append(Call(name, module, first.shape, output.shape))

        module.register_forward_hook(note, with_kwargs=True)

    for name, module in model.eval().named_modules():
        if is_leaf(name, module):
            watch(name, module)
    outputs = tree_leaves(model(image))
    return DryRun(calls, [x.shape for x in outputs if isinstance(x, Tensor)])


@contextmanager
def runnable(shape: Sequence[int]) -> Iterator[None]:
    """Say in one sentence that the network within cannot run on an input of `shape`."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"the network cannot run on an input of shape {tuple(shape)}: {error}"
        ) from error


def is_leaf(name: str, module: nn.Module) -> bool:
    """Tell whether `module` computes by itself: it has no children but parametrizations."""
    inside_parametrization = "parametrizations" in name.split(".")
    return not inside_parametrization and all(
        child == "parametrizations" for child, _ in module.named_children()
    )
