"""Which weights of a layer die as one, and in which order, by their indicators? (FMP)"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from thinlens.sparsity.layout import PrunableModule, canonical, in_groups
from thinlens.sparsity.ranks import ranks


class Weights:
    """The weights of one layer as pieces: single weights, whole kernels, or, in N:M, the i-th
    largest of every group of M, so that N is the number of living pieces.

    The least pieces always live: a part of a layer, or N = 1.
    """

    def __init__(self, layer: PrunableModule, uses: int, m: int | None, least: float) -> None:
        self._layer, self._uses, self._m, self._least = layer, uses, m, least
        self.shape = layer.weight.shape

    @property
    def m(self) -> int | None:
        """Consecutive living input channels in a group; None where weights die one by one."""
        return self._m

    def pieces(self, indicator: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value of every piece of the living channels, and what it costs (integers).

        Of equal values the first dies first.
        """
        left = _cut(indicator, rows, columns)
        if self._m is None:
            weights = self.shape.numel() // indicator.numel()
            values, cost = left.flatten(), torch.tensor(weights * self._uses, device=left.device)
            return values, cost.expand(len(values))
        groups = in_groups(canonical(left, self._layer), self._m, fill=-torch.inf)
        groups = groups.sort(dim=1, descending=True).values
        there = groups.isfinite()  # a last group may be short
        counts = there.sum(0)
        means = groups.where(there, torch.zeros_like(groups)).sum(0) / counts.clamp_min(1)
        return means.cummin(0).values.flip(0), (counts * self._uses).flip(0)

    def dead(self, values: Tensor, threshold: float) -> Tensor:
        """Tell which pieces are under a threshold; those that always live are not."""
        dead = values < threshold
        least = self.least(values.numel())
        if values.numel() - int(dead.sum()) < least:
            dead[values.argsort(stable=True)[-least:]] = False
        return dead

    def least(self, pieces: int) -> int:
        """Return how many of so many pieces always live."""
        return 1 if self._m is not None else max(1, ceil(self._least * pieces))

    def mask(self, indicator: Tensor, rows: Tensor, columns: Tensor, dead: Tensor) -> Tensor:
        """Return bool of the whole weight's shape: what lives once these pieces are dead."""
        left = _cut(indicator, rows, columns)
        if self._m is None:
            living = (~dead).view(left.shape)
        else:
            living = ranks(left, self._layer, self._m) <= int((~dead).sum())
        mask = torch.zeros(self.shape, dtype=torch.bool, device=indicator.device)
        mask[rows[:, None], columns] = living.expand(len(rows), len(columns), *self.shape[2:])
        return mask


def _cut(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return what living channels have of a tensor whose first two axes are channels."""
    if len(rows) < values.shape[0]:
        values = values.index_select(0, rows)
    return values.index_select(1, columns) if len(columns) < values.shape[1] else values
