"""Float32 computation of the output layer under bf16 autocast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.layout import PRUNABLE_TYPES


class Float32Output:
    """Compute the layer that outputs the image in float32 under autocast, inside the context.

    bfloat16 has 8 bits of precision: rounding the image to it hides small errors from the loss
    (docs/results.md). The layer is the last one that runs.
    """

    def __init__(self) -> None:
        self._hooks: list[RemovableHandle] = []
        self._device: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def attach(self, module: nn.Module, example: Sequence[int]) -> None:
        """Select the layer by a dry run on an input of shape `example`; the first call decides."""
        if self._hooks:
            return
        calls = [c for c in dry_run(module, example).calls if isinstance(c.module, PRUNABLE_TYPES)]
        if calls:
            layer = module.get_submodule(calls[-1].name)
            self._hooks = [
                layer.register_forward_pre_hook(self._disable_autocast),
                layer.register_forward_hook(self._restore_autocast, always_call=True),
            ]

    def _disable_autocast(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kind = inputs[0].device.type
        if not torch.is_autocast_enabled(kind):
            return inputs
        self._device = kind
        torch.set_autocast_enabled(kind, False)
        return tuple(x.float() for x in inputs)

    def _restore_autocast(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if self._device:
            torch.set_autocast_enabled(self._device, True)
            self._device = None
