"""Every layer keeps its fraction, and the rest of the budget is spent by energy per cost."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from thinlens.errors import UsageError
from thinlens.models import create
from thinlens.sparsity.allocation import allocate, cost_tables, rank_energies
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.prunable import find_layers

Tables = dict[str, list[int]]
Energies = dict[str, list[float]]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tables, Energies]:
    """Layers of several group sizes; a short last group makes later units cheaper."""
    tables: Tables = {}
    energies: Energies = {}
    for index in range(draw(st.integers(1, 4))):
        m = draw(st.integers(2, 8))
        units = sorted(draw(st.lists(st.integers(1, 50), min_size=m, max_size=m)), reverse=True)
        tables[f"layer{index}"] = [sum(units[:n]) for n in range(m + 1)]
        drawn = draw(st.lists(st.floats(0, 9), min_size=m, max_size=m))
        energies[f"layer{index}"] = sorted(drawn, reverse=True)
    return tables, energies


@given(problems(), st.fractions(Fraction(1, 20), 1, max_denominator=64))
def test_the_budget_is_met_and_nothing_more_fits(
    problem: tuple[Tables, Energies], part: Fraction
) -> None:
    tables, energies = problem
    most = part * sum(costs[-1] for costs in tables.values())
    assume(sum(costs[1] for costs in tables.values()) <= most)
    found = allocate(tables, energies, Budget(part))
    assert found.cost == sum(tables[name][n] for name, n in found.n.items()) <= most
    assert found.achieved <= part
    for name, n in found.n.items():
        assert n >= 1
        if n + 1 < len(tables[name]):
            assert found.cost + tables[name][n + 1] - tables[name][n] > most


@given(
    problems(),
    st.fractions(Fraction(1, 40), 1, max_denominator=64),
    st.sets(st.sampled_from(["layer0", "layer1"])),
)
def test_a_budget_is_refused_exactly_when_no_allocation_meets_it(
    problem: tuple[Tables, Energies], part: Fraction, allow_zero: set[str]
) -> None:
    tables, energies = problem
    dense = sum(costs[-1] for costs in tables.values())
    choices = product(
        *(range(name not in allow_zero, len(costs)) for name, costs in tables.items())
    )
    reachable = any(
        sum(costs[n] for costs, n in zip(tables.values(), choice, strict=True)) <= part * dense
        for choice in choices
    )
    if reachable:
        found = allocate(tables, energies, Budget(part), allow_zero=allow_zero)
        assert found.cost <= part * dense
        assert all(n or name in allow_zero for name, n in found.n.items())
    else:
        with pytest.raises(UsageError, match="the lowest reachable is"):
            allocate(tables, energies, Budget(part), allow_zero=allow_zero)


def test_the_named_lowest_budget_is_reachable() -> None:
    tables, energies = {"a": [0, 1, 2, 3], "b": [0, 5, 10, 15]}, {"a": [1.0] * 3, "b": [1.0] * 3}
    with pytest.raises(UsageError, match=r"the lowest reachable is 33\.34%"):
        allocate(tables, energies, Budget.parse("1/4"))
    assert allocate(tables, energies, Budget.parse("33.34%")).n == {"a": 1, "b": 1}


@pytest.mark.parametrize("name", ["edsr", "carn", "rfdn", "dncnn-17"])
def test_whole_parts_are_uniform(name: str) -> None:
    """At M = 32 and 1/8 every layer keeps exactly N = 4, and the budget is met exactly."""
    layers = find_layers(create(name), (1, 1 if name == "dncnn-17" else 3, 24, 24))
    tables = cost_tables(layers, 32)
    energies = {layer: [1.0] * 32 for layer in tables}
    for n in (1, 2, 4, 8, 16, 32):
        found = allocate(tables, energies, Budget(Fraction(n, 32)))
        assert set(found.n.values()) == {n}
        assert found.achieved == Fraction(n, 32)


def test_what_is_left_goes_where_it_keeps_most_energy_per_cost() -> None:
    # 1/2 of M = 5: N = 2 everywhere leaves (1 + 10) / 2 = 5.5 of a dense 55, so only a's
    # units fit, and of a and c the one with more energy per multiply-add is bought first.
    tables = {"a": [0, 1, 2, 3, 4, 5], "b": [0, 10, 20, 30, 40, 50], "c": [0, 1, 2, 3, 4, 5]}
    energies = {"a": [9, 9, 1, 1, 1.0], "b": [99.0] * 5, "c": [9, 9, 2, 2, 0.5]}
    assert allocate(tables, energies, Budget.parse("24/60")).n == {"a": 2, "b": 2, "c": 2}
    assert allocate(tables, energies, Budget.parse("26/60")).n == {"a": 2, "b": 2, "c": 4}
    assert allocate(tables, energies, Budget.parse("27/60")).n == {"a": 3, "b": 2, "c": 4}


@given(st.data())
def test_plateaus_are_crossed(data: st.DataObject) -> None:
    """Where dense costs what a smaller N does, no N between is chosen."""
    tables: Tables = {}
    energies: Energies = {}
    for name in ("a", "b", "c"):
        m, unit = data.draw(st.integers(2, 8)), data.draw(st.integers(1, 50))
        plateau = data.draw(st.integers(1, m))
        tables[name] = [100 * unit * min(n, plateau) + n for n in range(m + 1)]
        energies[name] = sorted(data.draw(st.lists(st.floats(0.1, 9), min_size=m, max_size=m)))[
            ::-1
        ]
    part = data.draw(st.fractions(Fraction(1, 20), 1, max_denominator=64))
    dense = sum(costs[-1] for costs in tables.values())
    assume(sum(costs[1] for costs in tables.values()) <= part * dense)
    for start in (None, dict.fromkeys(tables, 1)):
        chosen = allocate(tables, energies, Budget(part), start)
        assert chosen.cost <= part * dense
        for name, n in chosen.n.items():
            rest = tables[name][-1] - tables[name][n]
            assert n == len(tables[name]) - 1 or chosen.cost + rest > part * dense


def test_rank_energies_sum_squares_by_rank() -> None:
    layer = nn.Conv2d(5, 1, 1, bias=False)
    weight = torch.tensor([1.0, -3.0, 2.0, 5.0, 4.0]).reshape(1, 5, 1, 1)
    # Groups of 3: (3, 2, 1) and the short (5, 4).
    assert rank_energies(weight, layer, 3) == [9 + 25, 4 + 16, 1]


def test_m_that_prunes_nothing_names_every_layer() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 3, 3))
    with pytest.raises(
        UsageError, match=r"M = 32 prunes no layer.*first.*: 0; .*6 .*: 1; .*image: 2"
    ):
        cost_tables(find_layers(network, (1, 3, 16, 16)), 32)
