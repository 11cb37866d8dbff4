"""Matrix products outside of prunable layers: attention, and weights used by functions.

They have no rows of their own among the layers, but they are work: in a transformer a tenth of it
or more. None can be pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.models import registry_name
from thinlens.models.aten_arguments import bind_arguments
from thinlens.models.dispatch_mode import DispatchMode
from thinlens.models.trial_run import trial_run
from thinlens.sparsity.dry_run import is_leaf
from thinlens.sparsity.layout import PRUNABLE_TYPES

ATTENTION = "a product of two activations, which has no weights"
"""Why a matrix product of attention stays dense."""


@dataclass(frozen=True)
class MatrixProduct:
    """The matrix products of one module outside of its layers, for one image."""

    name: str
    """The module in whose forward pass they run; empty for the network itself."""
    macs: int
    """Multiply-adds, summed over all calls."""
    reason: str
    """Why they stay dense."""

    @property
    def attention(self) -> bool:
        """Whether both factors are activations."""
        return self.reason == ATTENTION


def find_products(model: nn.Module, example: Sequence[int]) -> list[MatrixProduct]:
    """List the matrix products and convolutions that run outside of convolutions and Linear layers.

    Networks of `MODELS` have none that their papers count. `model` is not changed and must run on
    an input shaped `example`.

    >>> class Attention(nn.Module):
    ...     def forward(self, image):
    ...         tokens = image.flatten(2)
    ...         return (tokens @ tokens.mT @ tokens).reshape(image.shape)
    >>> [product.macs for product in find_products(Attention(), (1, 2, 4, 4))]
    [128]
    """
    if registry_name(model) is not None:
        return []
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        counter = trial_run(model, example, _counted)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return [
        MatrixProduct(name, macs // example[0], reason)
        for (name, reason), macs in counter.macs.items()
        if macs
    ]


def _counted(model: nn.Module, image: Tensor) -> _Counter:
    counter = _Counter(model)
    with counter:
        model(image)
    return counter


class _Counter(DispatchMode):
    """Sums multiply-adds by the innermost module and the reason; keeps no tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.macs: dict[tuple[str, str], int] = {}
        self._modules: list[tuple[str, nn.Module]] = []
        self._weights = {p.untyped_storage()._cdata for p in model.parameters()}
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._calling(name), prepend=True)
            module.register_forward_hook(self._returned)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._count(*bind_arguments(func, args, kwargs), result)
        return result

    def _count(self, called: str, bound: dict[str, Any], result: Any) -> None:
        name, module = self._modules[-1] if self._modules else ("", nn.Identity())
        if isinstance(module, PRUNABLE_TYPES) and is_leaf(name, module):
            return  # a layer, which `find_layers` counts
        counted = _multiply_adds(called, bound, result)
        if counted is None:
            return
        macs, factors = counted
        key = name, self._reason(module, factors)
        self.macs[key] = self.macs.get(key, 0) + macs

    def _reason(self, module: nn.Module, factors: Sequence[Tensor]) -> str:
        if any(x.untyped_storage()._cdata in self._weights for x in factors):
            return f"weights of {type(module).__name__} that are used outside of a layer"
        return ATTENTION

    def _calling(self, name: str) -> Callable[..., None]:
        return lambda module, inputs: self._modules.append((name, module))

    def _returned(self, module: nn.Module, inputs: Any, result: Any) -> None:
        self._modules.pop()


def _multiply_adds(
    name: str, bound: dict[str, Any], result: Any
) -> tuple[int, tuple[Tensor, Tensor]] | None:
    """Return the multiply-adds of an operation and its two factors; None if it has no products."""
    if name in ("mm", "bmm"):
        one, other = bound["self"], bound["mat2"]
        return one.numel() * other.shape[-1], (one, other)
    if name in ("addmm", "baddbmm"):
        batched = name == "baddbmm"
        one, other = bound["batch1" if batched else "mat1"], bound["batch2" if batched else "mat2"]
        return one.numel() * other.shape[-1], (one, other)
    if name.startswith("_scaled_dot_product") and "backward" not in name:
        query, key, value = bound["query"], bound["key"], bound["value"]
        scores = prod(query.shape[:-1]) * key.shape[-2]
        return scores * (query.shape[-1] + value.shape[-1]), (query, key)
    if name == "convolution":
        weight, x = bound["weight"], bound["input"]
        positions = x if bound["transposed"] else result
        outputs = positions.numel() // positions.shape[1]
        return outputs * weight.numel(), (x, weight)
    return None
