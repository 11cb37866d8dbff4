"""Allocation of N per layer under a cost budget, greedily by retained energy per multiply-add."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

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
    last one only of layers in `allow_zero`. Several units of a layer move together where that is
    better: measured times have plateaus, so that dense may cost no more than a larger N. Ties go
    to the first layer and the fewest units. Raises `UsageError` where `check_reachable` does.

    >>> tables = {"conv1": [0, 10, 20], "conv2": [0, 10, 20]}
    >>> allocate(tables, {"conv1": [5, 1], "conv2": [5, 4]}, Budget.parse("3/4")).n
    {'conv1': 1, 'conv2': 2}
    >>> plateau = {"conv1": [0, 2, 10, 10], "conv2": [0, 4, 8, 12]}  # dense where it costs 10
    >>> allocate(plateau, {"conv1": [5, 3, 3], "conv2": [5, 2, 2]}, Budget.parse("14/22")).n
    {'conv1': 3, 'conv2': 1}
    """
    check_reachable(tables, budget, allow_zero)
    dense = sum(costs[-1] for costs in tables.values())
    limit = budget.kept * dense
    n = {name: max(1, int(budget.kept * (len(costs) - 1))) for name, costs in tables.items()}
    n.update(start or {})

    moves = {name: _LayerMoves(costs, energies[name]) for name, costs in tables.items()}
    spent = sum(tables[name][kept] for name, kept in n.items())
    lowered = (
        {x: moves[x].lower(n[x], int(x not in allow_zero)) for x in n} if spent > limit else {}
    )
    while spent > limit:
        reduced = min((x for x in n if lowered[x].n < n[x]), key=lambda x: lowered[x].density)
        spent -= tables[reduced][n[reduced]] - tables[reduced][lowered[reduced].n]
        n[reduced] = lowered[reduced].n
        lowered[reduced] = moves[reduced].lower(n[reduced], int(reduced not in allow_zero))
    raised = {x: moves[x].higher(n[x], limit - spent) for x in n}
    while fitting := [x for x in n if raised[x].n > n[x]]:
        best = max(fitting, key=lambda x: raised[x].density)
        cost = tables[best][raised[best].n] - tables[best][n[best]]
        if cost <= limit - spent:
            spent += cost
            n[best] = raised[best].n
        raised[best] = moves[best].higher(n[best], limit - spent)
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


class _Move(NamedTuple):
    """Another N of a layer, and the energy per cost of the units between."""

    n: int
    density: float


class _LayerMoves:
    """The best way to change a layer's N."""

    def __init__(self, costs: Sequence[int], energies: Sequence[float]) -> None:
        self._costs = costs
        self._energies = [0.0, *accumulate(energies)]

    def higher(self, n: int, limit: Fraction) -> _Move:
        """Return the larger N of most energy per cost whose cost fits; `n` where none does."""
        larger = (x for x in range(n + 1, len(self._costs)) if self._cost(n, x) <= limit)
        return max((self._move(n, x, x) for x in larger), key=_density, default=_Move(n, 0.0))

    def lower(self, n: int, least: int) -> _Move:
        """Return the smaller N that loses least energy per cost; `n` where it is `least`."""
        smaller = range(n - 1, least - 1, -1)
        return min((self._move(x, n, x) for x in smaller), key=_density, default=_Move(n, 0.0))

    def _cost(self, low: int, high: int) -> int:
        return self._costs[high] - self._costs[low]

    def _move(self, low: int, high: int, n: int) -> _Move:
        cost, energy = self._cost(low, high), self._energies[high] - self._energies[low]
        return _Move(n, energy / cost if cost > 0 else math.inf)


def _density(move: _Move) -> float:
    return move.density


def _rounded_up(fraction: Fraction) -> str:
    """Write `fraction` as a percentage that is itself reachable."""
    return f"{math.ceil(fraction * 10**4) / 100:.2f}%"
