"""Ranks of weights within their N:M groups."""

from __future__ import annotations

import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.sparsity.layout import (
    PrunableModule,
    canonical,
    from_canonical,
    from_groups,
    in_groups,
)

LARGEST_M = 255
"""The largest group size: ranks are stored as uint8."""


@torch.no_grad()
def ranks(scores: Tensor, module: PrunableModule, m: int) -> Tensor:
    """Rank `scores` (shaped as `module`'s weight) in groups of `m`: uint8, 1 is the largest.

    Groups are `m` consecutive input channels at one output channel and kernel position; a last
    short group is ranked by itself. Equal scores are ranked by channel index, so that a rank is
    a function of the scores alone. Raises `UsageError` for NaN.

    >>> ranks(torch.tensor([[0.1, 0.7, 0.5, 0.2]]), torch.nn.Linear(4, 1), m=2).tolist()
    [[2, 1, 1, 2]]
    """
    if not 1 <= m <= LARGEST_M:
        raise UsageError(f"M = {m} is out of range: ranks hold 1 to {LARGEST_M}")
    if torch.isnan(scores).any():
        raise UsageError("a weight is NaN, so it cannot be ranked: was the training stable?")
    rows = canonical(scores, module)
    groups = in_groups(rows, m, fill=-torch.inf)
    order = groups.argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(1, m + 1, dtype=torch.uint8, device=scores.device)
    ranked = torch.empty_like(order, dtype=torch.uint8)
    ranked.scatter_(1, order, positions.expand_as(order))
    return from_canonical(from_groups(ranked, rows.shape), module)


def magnitude_ranks(weight: Tensor, module: PrunableModule, m: int) -> Tensor:
    """Rank a weight by absolute value (SLS, section 3.1)."""
    return ranks(weight.detach().abs(), module, m)
