"""Exchange rate between error and cost that meets a target mean cost of routing.

At the fixed point of ClassPruning's stage 3 an image goes to the branch of least
`w1 error + w3 cost`, so that w3 / w1 is an exchange rate between the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thinlens.errors import UsageError

TIE_TOLERANCE = 1e-9
"""Relative margin: where two branches are equally good, rounding must not select the expensive
one."""


def best_branches(errors: Tensor, branch_costs: Sequence[float], rate: float) -> Tensor:
    """Return the branch of least `error + rate x price` for every image, `[K, L]` to `[K]`."""
    return (errors.double() + rate * torch.tensor(branch_costs, dtype=torch.float64)).argmin(dim=1)


def check_target(costs: Sequence[float], target: float) -> None:
    """Raise `UsageError` if even the cheapest branch, with the classifier, costs too much."""
    if costs[0] > target:
        raise UsageError(
            f"target cost {target:.1%}: the thinnest branch and the classifier alone cost "
            f"{costs[0]:.1%} of the base network"
        )


def exchange_rate(
    errors: Tensor, branch_costs: Sequence[float], costs: Sequence[float], target: float
) -> float:
    """Return the least rate at which the best branches cost at most `target` on average.

    `errors` are measured, image by branch `[K, L]`; `branch_costs` (C of equation 5) and `costs`
    increase from branch to branch. Raises `UsageError` if even the cheapest branch costs more.
    """
    check_target(costs, target)
    cost = torch.tensor(costs, dtype=torch.float64)

    def mean_cost(rate: float) -> float:
        return float(cost[best_branches(errors, branch_costs, rate)].mean())

    rates = [0.0, *_turning_points(errors.double(), branch_costs)]
    low, high = 0, len(rates) - 1  # the cost falls as the rate rises
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if mean_cost(rates[middle]) <= target else (middle + 1, high)
    return rates[low]


def _turning_points(errors: Tensor, branch_costs: Sequence[float]) -> list[float]:
    """Return, ascending, the rates above 0 at which a cheaper branch becomes better."""
    ratios = [
        (errors[:, cheap] - errors[:, expensive]) / (branch_costs[expensive] - branch_costs[cheap])
        for expensive in range(len(branch_costs))
        for cheap in range(expensive)
    ]
    points = torch.cat(ratios)
    rising = sorted(set(points[points > 0].tolist()))
    return [rate * (1 + TIE_TOLERANCE) for rate in rising]
