"""Which layers' answers are only added to what is there without them?"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from thinlens.sparsity.channels import small
from thinlens.sparsity.dry_run import runnable
from thinlens.sparsity.layout import PRUNABLE_TYPES

SUMS = ("add", "add_", "__add__", "__radd__", "__iadd__")
SCALINGS = ("mul", "mul_", "__mul__", "__rmul__", "__imul__")


def residual_layers(model: nn.Module, example: Sequence[int]) -> set[str]:
    """Name the layers that end a residual branch, on images shaped `example`; `model` is not
    touched.

    At every call, such a layer's answer, at most scaled by a number, is added to a tensor from
    which it was computed. So a network without the layer still hands on what it had. Raises
    `UsageError` if the network cannot run on a small image.
    """
    traced = copy.deepcopy(model).cpu().eval()
    kind = next((p.dtype for p in traced.parameters()), torch.float32)
    image = torch.zeros(small(example), dtype=kind, requires_grad=True).clone()
    sums = _Sums()
    with ExitStack() as hooks:
        for name, layer in traced.named_modules():
            if isinstance(layer, PRUNABLE_TYPES):
                hooks.enter_context(layer.register_forward_hook(sums.note(name)))
        with runnable(image.shape), torch.enable_grad(), sums:
            traced(image)
    return {name for name, calls in sums.calls.items() if sums.added[name] == calls}


class _Sums(TorchFunctionMode):
    """Follow the layers' answers into sums. autograd knows what was computed from what."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.added: Counter[str] = Counter()
        self._answers: dict[int, tuple[str, Tensor]] = {}
        """By identity; the tensor is held so that no other one takes its place."""

    def note(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        """Return a forward hook that remembers what the layer answers."""

        def hook(_layer: nn.Module, _inputs: Any, answer: Tensor) -> None:
            self.calls[name] += 1
            self._answers[id(answer)] = (name, answer)

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
            for mine, other in (operands, operands[::-1]):
                found = self._answers.get(id(mine))
                if found and _comes_from(mine, other):
                    self.added[found[0]] += 1
        result = func(*args, **(kwargs or {}))
        if operation in SCALINGS and not all(isinstance(x, Tensor) for x in operands):
            for x in operands:
                if id(x) in self._answers:
                    self._answers[id(result)] = (self._answers[id(x)][0], result)
        return result


def _comes_from(tensor: Tensor, earlier: Tensor) -> bool:
    """Tell whether `tensor` was computed from `earlier`, which was computed itself."""
    waiting = [tensor.grad_fn]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return earlier.grad_fn in seen
