"""Residual layers: those whose output is only added to a tensor it was computed from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from thinlens.models.copying import copy_network
from thinlens.sparsity.channels import trace_shape
from thinlens.sparsity.dry_run import runnable
from thinlens.sparsity.layout import PRUNABLE_TYPES

SUMS = ("add", "add_", "__add__", "__radd__", "__iadd__")
SCALINGS = ("mul", "mul_", "__mul__", "__rmul__", "__imul__")


def residual_layers(model: nn.Module, example: Sequence[int]) -> set[str]:
    """Return the names of the layers that end a residual branch, on images shaped `example`.

    At every call, such a layer's output, at most scaled by a number, is added to a tensor from
    which it was computed. So its N may be 0: the network then passes that tensor on unchanged.
    `model` is not changed. Raises `UsageError` if it cannot run on a small image.
    """
    traced = copy_network(model).cpu().eval()
    kind = next((p.dtype for p in traced.parameters()), torch.float32)
    image = torch.zeros(trace_shape(example), dtype=kind, requires_grad=True).clone()
    sums = _SumTracer()
    with ExitStack() as hooks:
        for name, layer in traced.named_modules():
            if isinstance(layer, PRUNABLE_TYPES):
                hooks.enter_context(layer.register_forward_hook(sums.watch(name)))
        with runnable(image.shape), torch.enable_grad(), sums:
            traced(image)
    return {name for name, calls in sums.calls.items() if sums.added[name] == calls}


class _SumTracer(TorchFunctionMode):
    """Follow the layers' outputs into sums, by autograd's graph."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.added: Counter[str] = Counter()
        self._outputs: dict[int, tuple[str, Tensor]] = {}
        """By identity; the tensor is kept so that its identity stays its own."""

    def watch(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        """Return a forward hook that stores the layer's output."""

        def hook(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.calls[name] += 1
            self._outputs[id(output)] = (name, output)

        return hook

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        operation = getattr(func, "__name__", "")
        operands = list(args[:2])
        if operation in SUMS and all(isinstance(x, Tensor) for x in operands):
            for branch, other in (operands, operands[::-1]):
                watched = self._outputs.get(id(branch))
                if watched and _depends_on(branch, other):
                    self.added[watched[0]] += 1
        result = func(*args, **(kwargs or {}))
        if operation in SCALINGS and not all(isinstance(x, Tensor) for x in operands):
            for x in operands:
                if id(x) in self._outputs:
                    self._outputs[id(result)] = (self._outputs[id(x)][0], result)
        return result


def _depends_on(tensor: Tensor, earlier: Tensor) -> bool:
    """Return whether `tensor` was computed from `earlier`, itself a computed tensor."""
    pending = [tensor.grad_fn]
    visited: set[Node] = set()
    while pending:
        node = pending.pop()
        if node is not None and node not in visited:
            visited.add(node)
            pending += [before for before, _ in node.next_functions]
    return earlier.grad_fn in visited
