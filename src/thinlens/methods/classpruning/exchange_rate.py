"""How much error is one unit of cost worth, so that routing costs what was asked for?

At the fixed point of ClassPruning's stage 3 an image goes to the branch of least
`w1 error + w3 cost`, so that w3 / w1 is an exchange rate between the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thinlens.errors import UsageError

NUDGE = 1e-9
"""Relative: at a rate where two branches are equally good, rounding must not prefer the dearer."""


def best_branches(errors: Tensor, prices: Sequence[float], rate: float) -> Tensor:
    """Return the branch of least `error + rate x price` for every image, `[K, L]` to `[K]`."""
    return (errors.double() + rate * torch.tensor(prices, dtype=torch.float64)).argmin(dim=1)


def check_target(costs: Sequence[float], target: float) -> None:
    """Raise `UsageError` if even the cheapest branch, with the classifier, costs too much."""
    if costs[0] > target:
        raise UsageError(
            f"target cost {target:.1%}: the thinnest branch and the classifier alone cost "
            f"{costs[0]:.1%} of the base network"
        )


def exchange_rate(
    errors: Tensor, prices: Sequence[float], costs: Sequence[float], target: float
) -> float:
    """Return the least rate at which the best branches cost at most `target` on average.

    `errors` are measured, image by branch `[K, L]`; `prices` (C of equation 5) and `costs` rise
    from branch to branch. Raises `UsageError` if even the cheapest branch costs more.
    """
    check_target(costs, target)
    cost = torch.tensor(costs, dtype=torch.float64)

    def mean_cost(rate: float) -> float:
        return float(cost[best_branches(errors, prices, rate)].mean())

    rates = [0.0, *_turning_points(errors.double(), prices)]
    low, high = 0, len(rates) - 1  # the cost falls as the rate rises
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if mean_cost(rates[middle]) <= target else (middle + 1, high)
    return rates[low]


def _turning_points(errors: Tensor, prices: Sequence[float]) -> list[float]:
    """Return the rates above 0, rising, at which an image begins to prefer a cheaper branch."""
    found = [
        (errors[:, cheap] - errors[:, dear]) / (prices[dear] - prices[cheap])
        for dear in range(len(prices))
        for cheap in range(dear)
    ]
    points = torch.cat(found)
    rising = sorted(set(points[points > 0].tolist()))
    return [rate * (1 + NUDGE) for rate in rising]
