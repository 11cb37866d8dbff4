"""Allocation of N per layer under a cost budget, greedily by retained energy per multiply-add."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from thinlens.errors import UsageError
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.cost import layer_costs
from thinlens.sparsity.layout import PrunableModule, canonical, in_groups
from thinlens.sparsity.prunable import Layer

CostTables = Mapping[str, Sequence[int]]
"""Cost of a layer at N = 0..M, by layer name: multiply-adds, or nanoseconds."""


@dataclass(frozen=True)
class Allocation:
    """N by layer name, and its cost."""

    n: dict[str, int]
    cost: int
    dense: int
    """The cost at N = M everywhere: the base of the budget."""

    @property
    def achieved(self) -> Fraction:
        """The fraction of the dense cost that is kept."""
        return Fraction(self.cost, self.dense)


def cost_tables(layers: Sequence[Layer], m: int) -> dict[str, list[int]]:
    """Return the multiply-adds at N = 0..M of every prunable layer.

    Raises `UsageError` with every layer and its reason where none is prunable.
    """
    tables = {layer.name: layer_costs(layer) for layer in layers if layer.prunable}
    if not tables:
        reasons: dict[str, list[str]] = {}
        for layer in layers:
            reasons.setdefault(layer.reason, []).append(layer.name)
        listed = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in reasons.items())
        raise UsageError(f"M = {m} prunes no layer of this network ({listed or 'it has none'})")
    return tables


def group_sizes(tables: CostTables) -> dict[str, int]:
    """Return M by layer name."""
    return {name: len(costs) - 1 for name, costs in tables.items()}


def rank_energies(weight: Tensor, module: PrunableModule, m: int) -> list[float]:
    """Return the sum of squares of the weights ranked 1..M in their groups, over all groups."""
    squares = in_groups(canonical(weight.detach().double().square(), module), m, fill=0.0)
    energies: list[float] = squares.sort(dim=1, descending=True).values.sum(0).tolist()
    return energies


def allocate(
    tables: CostTables,
    energies: Mapping[str, Sequence[float]],
    budget: Budget,
    start: Mapping[str, int] | None = None,
    allow_zero: Collection[str] = (),
) -> Allocation:
    """Keep the same fraction of every layer (or `start`), then spend the rest of the budget.

    N = floor(budget x M), at least 1; then units (one more weight in every group of a layer) are
    added in the order of retained energy per cost until none fits. Where the smallest N = 1, or
    the `start`, costs more than the budget, units of least energy per cost are removed first, the
    last one only of layers in `allow_zero`. Ties go to the first layer. Raises `UsageError` where
    `check_reachable` does.

    >>> tables = {"conv1": [0, 10, 20], "conv2": [0, 10, 20]}
    >>> allocate(tables, {"conv1": [5, 1], "conv2": [5, 4]}, Budget.parse("3/4")).n
    {'conv1': 1, 'conv2': 2}
    """
    check_reachable(tables, budget, allow_zero)
    dense = sum(costs[-1] for costs in tables.values())
    limit = budget.kept * dense
    n = {name: max(1, int(budget.kept * (len(costs) - 1))) for name, costs in tables.items()}
    n.update(start or {})

    def density(name: str, unit: int) -> float:
        """Return the energy that unit number `unit` of a layer retains per cost."""
        cost = _unit_cost(tables, name, unit)
        return energies[name][unit - 1] / cost if cost else 0.0

    spent = sum(tables[name][kept] for name, kept in n.items())
    while spent > limit:
        reducible = (x for x in n if n[x] > (x not in allow_zero))
        reduced = min(reducible, key=lambda x: density(x, n[x]))
        spent -= _unit_cost(tables, reduced, n[reduced])
        n[reduced] -= 1
    while fitting := [x for x in n if 0 < _unit_cost(tables, x, n[x] + 1) <= limit - spent]:
        raised = max(fitting, key=lambda x: density(x, n[x] + 1))
        n[raised] += 1
        spent += _unit_cost(tables, raised, n[raised])
    return Allocation(n, spent, dense)


def check_reachable(tables: CostTables, budget: Budget, allow_zero: Collection[str] = ()) -> None:
    """Raise `UsageError` with the lowest reachable budget where N = 1 everywhere, 0 in layers of
    `allow_zero`, is over it."""
    dense = sum(costs[-1] for costs in tables.values())
    lowest = sum(costs[name not in allow_zero] for name, costs in tables.items())
    if lowest > budget.kept * dense:
        raise UsageError(
            f"budget {budget} is below N = 1 in every layer"
            f"{' that cannot be skipped' * bool(allow_zero)}: the lowest reachable is "
            f"{_rounded_up(Fraction(lowest, dense))}"
        )


def _unit_cost(tables: CostTables, name: str, unit: int) -> int:
    """Return the cost of unit number `unit` of a layer; 0 beyond its last."""
    costs = tables[name]
    return costs[unit] - costs[unit - 1] if unit < len(costs) else 0


def _rounded_up(fraction: Fraction) -> str:
    """Write `fraction` as a percentage that is itself reachable."""
    return f"{math.ceil(fraction * 10**4) / 100:.2f}%"
