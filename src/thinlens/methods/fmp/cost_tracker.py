"""Cost tracking in FMP: the cost removed by pruned channels and by pruned weights.

The decomposition of the supplement's Table 3: the cost removed with channels, the cost removed by
zeroed weights in the remaining channels, and the remaining cost add up to the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from thinlens.methods.channels.order import coupled_groups, keep_limits, min_kept
from thinlens.methods.fmp.granularity import WeightGroups
from thinlens.methods.fmp.hypernetwork import Hypernetwork
from thinlens.sparsity.channels import CoupledChannels


@dataclass(frozen=True, eq=False)
class Magnitudes:
    """Magnitudes of channels and weights, and the thresholds below which they are pruned."""

    vector: Tensor
    """`[L]`, on the CPU."""
    indicators: list[Tensor]
    channel_threshold: float
    weight_threshold: float


class CostTracker:
    """Computes the cost that pruned channels and weights of a hypernetwork remove."""

    def __init__(
        self,
        module: Hypernetwork,
        channels: CoupledChannels,
        weights: Sequence[WeightGroups],
        channel_cost: Callable[[list[int]], int],
        min_channels: int,
    ) -> None:
        """Use `channel_cost(pruned channel ids)`; every axis keeps `min_channels` channels."""
        self.names, self.weights = module.names, weights
        self.channel_ids, self._channel_cost = module.channel_ids, channel_cost
        self._axes = [(first.cpu(), second.cpu()) for first, second in module.axis_entries()]
        entries = {channel: entry for entry, channel in enumerate(module.channel_ids)}
        self._groups = [
            (
                [entries[channel] for channel in group],
                keep_limits(group, channels, min_channels),
            )
            for group in coupled_groups(channels)
            if group
        ]
        self.whole = channel_cost([])
        """The cost without pruning."""
        self._cached: tuple[list[int], int] = ([], self.whole)

    def kept(self, vector: Tensor, threshold: float) -> Tensor:
        """Return which entries of the vector are kept, bool `[L]`: those from the threshold up,
        and the largest of each coupled group where an axis would have too few channels."""
        kept = vector >= threshold
        for ranked, count in self._ranked(vector):
            kept[ranked[:count]] = True
        return kept

    def at_minimum(self, vector: Tensor, threshold: float) -> Tensor:
        """Return which entries belong to groups that are at their minimum, bool `[L]`."""
        fixed = torch.zeros(len(vector), dtype=torch.bool)
        for ranked, count in self._ranked(vector):
            fixed[ranked] = int((vector[ranked] >= threshold).sum()) <= count
        return fixed

    def vanished(self, vector: Tensor, threshold: float) -> int | None:
        """Return a channel id of a prunable group with all entries below the threshold, or None."""
        for ranked, count in self._ranked(vector):
            if len(ranked) > count and vector[ranked[0]] < threshold:
                return self.channel_ids[min(ranked)]
        return None

    def removed_by_channels(self, kept: Tensor) -> Fraction:
        """Return the fraction of the cost that pruned channels remove."""
        pruned = self.pruned_ids(kept)
        if pruned != self._cached[0]:
            self._cached = (pruned, self._channel_cost(pruned))
        return 1 - Fraction(self._cached[1], self.whole)

    def removed_by_weights(self, magnitudes: Magnitudes, kept: Tensor, factor: float) -> Fraction:
        """Return the fraction that weights below `factor` times the threshold remove."""
        cost = 0
        for index, layer in enumerate(self.weights):
            indicator = magnitudes.indicators[index]
            sizes, costs = layer.groups(indicator, *self.remaining(index, kept, indicator))
            cost += int(costs[layer.below(sizes, factor * magnitudes.weight_threshold)].sum())
        return Fraction(cost, self.whole)

    def removed(self, magnitudes: Magnitudes) -> tuple[Fraction, Fraction]:
        """Return the fractions that channels and weights below their thresholds remove."""
        kept = self.kept(magnitudes.vector, magnitudes.channel_threshold)
        return self.removed_by_channels(kept), self.removed_by_weights(magnitudes, kept, 1)

    def remaining(self, index: int, kept: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices of a layer's remaining rows and columns, on the device of `like`."""
        padded = torch.cat([torch.ones(1, dtype=torch.bool), kept])
        first, second = (padded[axis].nonzero()[:, 0] for axis in self._axes[index])
        return first.to(like.device), second.to(like.device)

    def pruned_ids(self, kept: Tensor) -> list[int]:
        """Return the ids of the channels whose entries are not kept."""
        return [self.channel_ids[entry] for entry in (~kept).nonzero()[:, 0].tolist()]

    def _ranked(self, vector: Tensor) -> Iterator[tuple[list[int], int]]:
        """Yield the entries of every group, the largest first, and how many have to be kept."""
        sizes = vector.tolist()
        for entries, limits in self._groups:
            ranked = sorted(entries, key=lambda entry: (-sizes[entry], entry))
            yield ranked, min_kept([self.channel_ids[entry] for entry in ranked], limits)
