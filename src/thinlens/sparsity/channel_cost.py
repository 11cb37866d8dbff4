"""Cost of a network without some of its channels, computed without building it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

import torch
from torch import Tensor, nn

from thinlens.sparsity.channels import COUNTED_ACTIVATIONS, CoupledChannels
from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.prunable import find_layers


class ChannelCost:
    """Cost of a network on `example` without the channel groups that are named: the same numbers
    as `sparsity.cost` (convention sls) counts on the network from which they are removed."""

    def __init__(self, model: nn.Module, example: Sequence[int], channels: CoupledChannels) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._shapes = {name: p.shape for name, p in model.named_parameters()}
        self._channels = channels
        self.macs_per_weight: dict[str, int] = {}
        """The multiply-adds of one entry, by the name of a weight."""
        self._bias_positions: list[tuple[str, int]] = []
        for layer in find_layers(model, example):
            module = model.get_submodule(layer.name)
            name = names[id(module.weight)]
            uses = layer.macs // layer.weights
            self.macs_per_weight[name] = self.macs_per_weight.get(name, 0) + uses
            if isinstance(module.bias, Tensor):
                positions = layer.bias_adds // layer.out_channels
                self._bias_positions.append((names[id(module.bias)], positions))
        self._activation_sizes = [
            prod(call.output_shape) // example[0]
            for call in dry_run(model, example).calls
            if isinstance(call.module, COUNTED_ACTIVATIONS)
        ]

    def macs(self, pruned: Collection[int] = ()) -> int:
        """Count the multiply-adds without the channel ids `pruned`."""
        ids = _sorted_ids(pruned)
        entries = [*self.macs_per_weight.items(), *self._bias_positions]
        total = sum(uses * self._remaining(name, ids) for name, uses in entries)
        activations = zip(self._activation_sizes, self._channels.activations, strict=True)
        for elements, channel_ids in activations:
            remaining = int((~torch.isin(channel_ids, ids)).sum())
            total += elements * remaining // channel_ids.numel()
        return total

    def params(self, pruned: Collection[int] = ()) -> int:
        """Count the parameters without the channel ids `pruned`."""
        ids = _sorted_ids(pruned)
        return sum(self._remaining(name, ids) for name in self._shapes)

    def _remaining(self, name: str, pruned: Tensor) -> int:
        """Count the entries of a parameter that remain."""
        axes = self._channels.axes.get(name, (None,) * len(self._shapes[name]))
        return prod(
            size if ids is None else int((~torch.isin(ids, pruned)).sum())
            for size, ids in zip(self._shapes[name], axes, strict=True)
        )


def _sorted_ids(channel_ids: Collection[int]) -> Tensor:
    return torch.tensor(sorted(channel_ids), dtype=torch.int64)
