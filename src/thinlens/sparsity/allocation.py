"""How many weights may every layer keep under a budget?"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from thinlens.errors import UsageError
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.cost import table
from thinlens.sparsity.layout import PrunableModule, canonical, in_groups
from thinlens.sparsity.prunable import Layer

Tables = Mapping[str, Sequence[int]]
"""By layer name, what the layer costs at N = 0..M."""


@dataclass(frozen=True)
class Allocation:
    """N by layer name, and what that costs."""

    n: dict[str, int]
    cost: int
    dense: int
    """The cost at N = M everywhere: the base of the budget."""

    @property
    def achieved(self) -> Fraction:
        """The part of the dense cost that is kept."""
        return Fraction(self.cost, self.dense)


def cost_tables(layers: Sequence[Layer], m: int) -> dict[str, list[int]]:
    """Return the multiply-adds at N = 0..M of every prunable layer.

    Raises `UsageError` with every layer and its reason where none is prunable.
    """
    tables = {layer.name: table(layer) for layer in layers if layer.prunable}
    if not tables:
        reasons: dict[str, list[str]] = {}
        for layer in layers:
            reasons.setdefault(layer.why, []).append(layer.name)
        listed = "; ".join(f"{why}: {', '.join(names)}" for why, names in reasons.items())
        raise UsageError(f"M = {m} prunes no layer of this network ({listed or 'it has none'})")
    return tables


def group_sizes(tables: Tables) -> dict[str, int]:
    """Return M by layer name."""
    return {name: len(costs) - 1 for name, costs in tables.items()}


def rank_energies(weight: Tensor, module: PrunableModule, m: int) -> list[float]:
    """Return the sum of squares of the weights ranked 1..M in their groups, over all groups."""
    squares = in_groups(canonical(weight.detach().double().square(), module), m, fill=0.0)
    energies: list[float] = squares.sort(dim=1, descending=True).values.sum(0).tolist()
    return energies


def allocate(
    tables: Tables,
    energies: Mapping[str, Sequence[float]],
    budget: Budget,
    start: Mapping[str, int] | None = None,
    droppable: Collection[str] = (),
) -> Allocation:
    """Keep the same part of every layer (or `start`), then spend what is left.

    N = floor(budget x M), at least 1; then units (one more weight in every group of a layer) are
    bought by retained energy per cost until none fits. Where the smallest N = 1, or the `start`,
    costs more than the budget, units of least energy per cost are sold first, the last one of
    `droppable` layers too. Equal bargains go to the first layer. Raises `UsageError` where
    `check_reachable` does.
    """
    check_reachable(tables, budget, droppable)
    dense = sum(costs[-1] for costs in tables.values())
    most = budget.kept * dense
    n = {name: max(1, int(budget.kept * (len(costs) - 1))) for name, costs in tables.items()}
    n.update(start or {})

    def bargain(name: str, kept: int) -> float:
        """Return the energy that unit number `kept` of a layer retains per multiply-add."""
        cost = _unit(tables, name, kept)
        return energies[name][kept - 1] / cost if cost else 0.0

    spent = sum(tables[name][kept] for name, kept in n.items())
    while spent > most:
        thick = (x for x in n if n[x] > (x not in droppable))
        sold = min(thick, key=lambda x: bargain(x, n[x]))
        spent -= _unit(tables, sold, n[sold])
        n[sold] -= 1
    while fitting := [x for x in n if 0 < _unit(tables, x, n[x] + 1) <= most - spent]:
        bought = max(fitting, key=lambda x: bargain(x, n[x] + 1))
        n[bought] += 1
        spent += _unit(tables, bought, n[bought])
    return Allocation(n, spent, dense)


def check_reachable(tables: Tables, budget: Budget, droppable: Collection[str] = ()) -> None:
    """Raise `UsageError` with the lowest reachable budget where N = 1 everywhere, 0 in `droppable`
    layers, is over it."""
    dense = sum(costs[-1] for costs in tables.values())
    lowest = sum(costs[name not in droppable] for name, costs in tables.items())
    if lowest > budget.kept * dense:
        raise UsageError(
            f"budget {budget} is below N = 1 in every layer{' that must stay' * bool(droppable)}: "
            "the lowest reachable is "
            f"{_rounded_up(Fraction(lowest, dense))}"
        )


def _unit(tables: Tables, name: str, kept: int) -> int:
    """Return what unit number `kept` of a layer costs; 0 beyond its last."""
    costs = tables[name]
    return costs[kept] - costs[kept - 1] if kept < len(costs) else 0


def _rounded_up(part: Fraction) -> str:
    """Write `part` as a percentage that is itself reachable."""
    return f"{math.ceil(part * 10**4) / 100:.2f}%"
