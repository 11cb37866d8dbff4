"""Granularity of weight pruning in FMP: the weights of a layer as groups pruned as one."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from thinlens.sparsity.layout import PrunableModule, canonical, in_groups
from thinlens.sparsity.ranks import ranks


class WeightGroups:
    """The weights of one layer as weight groups: single weights, whole kernels, or, in N:M, the
    i-th largest of every M consecutive weights, so that N is the number of kept weight groups.

    A minimum is always kept: a fraction of a layer, or N = 1.
    """

    def __init__(
        self, layer: PrunableModule, uses: int, m: int | None, min_fraction: float
    ) -> None:
        self._layer, self._uses, self._m, self._min_fraction = layer, uses, m, min_fraction
        self.shape = layer.weight.shape

    @property
    def m(self) -> int | None:
        """Consecutive remaining input channels in a group; None if weights are no N:M groups."""
        return self._m

    def groups(self, indicator: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the magnitude of every group in the remaining channels, and its integer cost.

        Of equal magnitudes the first is pruned first.
        """
        remaining = _select(indicator, rows, columns)
        if self._m is None:
            weights = self.shape.numel() // indicator.numel()
            values, cost = (
                remaining.flatten(),
                torch.tensor(weights * self._uses, device=remaining.device),
            )
            return values, cost.expand(len(values))
        groups = in_groups(canonical(remaining, self._layer), self._m, fill=-torch.inf)
        groups = groups.sort(dim=1, descending=True).values
        valid = groups.isfinite()  # a last group may be short
        counts = valid.sum(0)
        means = groups.where(valid, torch.zeros_like(groups)).sum(0) / counts.clamp_min(1)
        return means.cummin(0).values.flip(0), (counts * self._uses).flip(0)

    def below(self, values: Tensor, threshold: float) -> Tensor:
        """Return the mask of the groups below a threshold, without those that are always kept."""
        pruned = values < threshold
        minimum = self.min_kept(values.numel())
        if values.numel() - int(pruned.sum()) < minimum:
            pruned[values.argsort(stable=True)[-minimum:]] = False
        return pruned

    def min_kept(self, count: int) -> int:
        """Return how many of `count` groups are always kept."""
        return 1 if self._m is not None else max(1, ceil(self._min_fraction * count))

    def mask(self, indicator: Tensor, rows: Tensor, columns: Tensor, pruned: Tensor) -> Tensor:
        """Return bool, shaped as the whole weight: what is kept when these groups are pruned."""
        remaining = _select(indicator, rows, columns)
        if self._m is None:
            kept = (~pruned).view(remaining.shape)
        else:
            kept = ranks(remaining, self._layer, self._m) <= int((~pruned).sum())
        mask = torch.zeros(self.shape, dtype=torch.bool, device=indicator.device)
        mask[rows[:, None], columns] = kept.expand(len(rows), len(columns), *self.shape[2:])
        return mask


def _select(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the remaining channels of a tensor whose first two axes are channels."""
    if len(rows) < values.shape[0]:
        values = values.index_select(0, rows)
    return values.index_select(1, columns) if len(columns) < values.shape[1] else values
