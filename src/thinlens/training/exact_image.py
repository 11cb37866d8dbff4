"""Which layer of a network that trains in bf16 is computed in float32?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.layout import PRUNABLE_TYPES


class Float32Output:
    """Computes the layer that makes the image in float32 under autocast, until it is left.

    bfloat16 has 8 bits: an image of such numbers hides its small errors from the loss
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

    def hold(self, module: nn.Module, example: Sequence[int]) -> None:
        """Find the layer by an input of shape `example`; once found it stays."""
        if self._hooks:
            return
        calls = [c for c in dry_run(module, example).calls if isinstance(c.module, PRUNABLE_TYPES)]
        if calls:
            layer = module.get_submodule(calls[-1].name)
            self._hooks = [
                layer.register_forward_pre_hook(self._leave_autocast),
                layer.register_forward_hook(self._enter_autocast, always_call=True),
            ]

    def _leave_autocast(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kind = inputs[0].device.type
        if not torch.is_autocast_enabled(kind):
            return inputs
        self._device = kind
        torch.set_autocast_enabled(kind, False)
        return tuple(x.float() for x in inputs)

    def _enter_autocast(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if self._device:
            torch.set_autocast_enabled(self._device, True)
            self._device = None
