"""What does a network cost once channels have left, without building it?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

import torch
from torch import Tensor, nn

from thinlens.sparsity.channels import ACTIVATIONS, Channels
from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.prunable import find_layers


class ChannelCost:
    """Prices a network on `example` without the channels that are named: the same numbers as
    `sparsity.cost` (convention sls) finds for the network that lacks them."""

    def __init__(self, model: nn.Module, example: Sequence[int], channels: Channels) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._shapes = {name: p.shape for name, p in model.named_parameters()}
        self._channels = channels
        self.uses: dict[str, int] = {}
        """The multiply-adds of one entry, by the name of a weight."""
        self._biases: list[tuple[str, int]] = []
        for layer in find_layers(model, example):
            module = model.get_submodule(layer.name)
            name = names[id(module.weight)]
            self.uses[name] = self.uses.get(name, 0) + layer.macs // layer.weights
            if isinstance(module.bias, Tensor):
                positions = layer.bias_adds // layer.out_channels
                self._biases.append((names[id(module.bias)], positions))
        self._activated = [
            prod(call.output_shape) // example[0]
            for call in dry_run(model, example).calls
            if isinstance(call.module, ACTIVATIONS)
        ]

    def macs(self, dead: Collection[int] = ()) -> int:
        """Count the multiply-adds without the labels `dead`."""
        gone = torch.tensor(sorted(dead), dtype=torch.int64)
        entries = [*self.uses.items(), *self._biases]
        total = sum(uses * self._left(name, gone) for name, uses in entries)
        for elements, labels in zip(self._activated, self._channels.activations, strict=True):
            alive = int((~torch.isin(labels, gone)).sum())
            total += elements * alive // labels.numel()
        return total

    def params(self, dead: Collection[int] = ()) -> int:
        """Count the parameters without the labels `dead`."""
        gone = torch.tensor(sorted(dead), dtype=torch.int64)
        return sum(self._left(name, gone) for name in self._shapes)

    def _left(self, name: str, gone: Tensor) -> int:
        """Count the entries of a parameter that are left."""
        axes = self._channels.axes.get(name, (None,) * len(self._shapes[name]))
        return prod(
            size if labels is None else int((~torch.isin(labels, gone)).sum())
            for size, labels in zip(self._shapes[name], axes, strict=True)
        )
