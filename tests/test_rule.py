"""Routing rules select the candidates of equation 8, at every beta and budget."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from thinlens.adaptive.rule import (
    FLAT_MSE,
    TileCosts,
    breakpoints,
    equation_8,
    lagrangian,
    select_candidates,
    select_within_budget,
)
from thinlens.errors import UsageError

COSTS = (24.09, 13.02, 7.26, 0.0)
"""The paper's CARNs (GMACs) and bicubic."""
ERRORS = np.array([[20.0, 21.0, 24.0, 40.0]]) / 255**2


@st.composite
def tile_costs(draw: st.DrawFn, with_fallback: bool = True) -> TileCosts:
    count, n = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 10**6))
    generator = np.random.default_rng(seed)
    # coarse values, so that ties happen
    errors = generator.integers(1, 12, (count, n)) / 1000
    costs = -np.sort(-generator.integers(0, 9, (1, n)).astype(float))
    costs[:, -1] *= not with_fallback
    if draw(st.booleans()):
        return equation_8(errors, costs * generator.integers(1, 3, (count, 1)))
    return lagrangian(errors, costs, generator.integers(1, 3, count))


def best_by_hand(errors: NDArray[np.float64], beta: float) -> int:
    """Equation 8 as it is printed."""
    f, c = errors[0], COSTS
    gains = [beta * (c[0] - c[i]) / c[0] + (f[-1] - f[i]) / f[-1] for i in range(len(f))]
    return max(range(len(f)), key=lambda i: (round(gains[i], 12), i))


@pytest.mark.parametrize(
    ("beta", "wanted"), [(0, 1), (0.05, 1), (0.1, 2), (0.5, 3), (1.3, 3), (1.4, 4), (1e9, 4)]
)
def test_the_worked_example(beta: float, wanted: int) -> None:
    """Equation 8 by hand, with the costs of the paper's CARNs."""
    assert select_candidates(equation_8(ERRORS, COSTS), beta).tolist() == [wanted - 1]
    assert best_by_hand(ERRORS, beta) == wanted - 1


def test_the_worked_examples_breakpoints() -> None:
    path = breakpoints(equation_8(ERRORS, COSTS))
    np.testing.assert_allclose(path.t, [0.0544, 0.3137, 1.3273], atol=5e-5)
    assert (path.before.tolist(), path.after.tolist()) == ([0, 1, 2], [1, 2, 3])


@given(st.lists(st.integers(1, 10**6), min_size=4, max_size=4), st.floats(0, 10))
def test_the_selection_is_that_of_equation_8(raw: list[int], beta: float) -> None:
    errors = np.array([raw]) / 1e4
    assert select_candidates(equation_8(errors, COSTS), beta)[0] == best_by_hand(errors, beta)


@given(tile_costs())
def test_the_limits(costs: TileCosts) -> None:
    least = costs.losses.min(axis=1)
    at_zero = select_candidates(costs, 0)
    assert (costs.losses[costs.tiles, at_zero] == least).all()
    more_expensive = [costs.losses[tile, route + 1 :] for tile, route in enumerate(at_zero)]
    assert all((rest > low).all() for rest, low in zip(more_expensive, least, strict=True))
    cheapest = costs.costs.min(axis=1)
    assert (costs.costs[costs.tiles, select_candidates(costs, 1e9)] == cheapest).all()


@given(tile_costs(), st.lists(st.floats(0, 20), min_size=2, max_size=8))
def test_the_cost_never_rises_with_beta(costs: TileCosts, betas: list[float]) -> None:
    spent = [costs.total(select_candidates(costs, beta)) for beta in sorted(betas)]
    assert spent == sorted(spent, reverse=True)


@given(tile_costs())
def test_between_breakpoints_nothing_changes(costs: TileCosts) -> None:
    path = breakpoints(costs)
    assert (np.diff(path.t) >= 0).all()
    edges = [0.0, *path.t.tolist(), float(path.t.max(initial=0)) + 1]
    for low, high in pairwise(edges):
        if high - low < 1e-9:
            continue
        routes = path.start.copy()
        for t, tile, before, after in zip(path.t, path.tile, path.before, path.after, strict=True):
            if t <= low:
                assert routes[tile] == before
                routes[tile] = after
        middle = select_candidates(costs, (low + high) / 2)
        weights = costs.losses + (low + high) / 2 * costs.prices
        np.testing.assert_allclose(
            weights[costs.tiles, routes], weights[costs.tiles, middle], rtol=1e-9
        )
        assert (costs.costs[costs.tiles, routes] == costs.costs[costs.tiles, middle]).all()


@given(tile_costs(), st.floats(0, 1))
def test_a_budget_is_kept_and_used_up_to_one_step(costs: TileCosts, part: float) -> None:
    path = breakpoints(costs)
    most, least = costs.total(path.start), costs.costs.min(axis=1).sum()
    budget = least + part * (most - least)
    fixed = 3 * part
    routes = select_within_budget(costs, budget + fixed, fixed)
    spent = costs.total(routes)
    assert spent <= budget * (1 + 1e-9) + 1e-9
    saved = costs.costs[path.tile, path.before] - costs.costs[path.tile, path.after]
    assert budget - spent <= saved.max(initial=0) + 1e-9


def test_many_tiles_meet_a_budget_within_one_percent() -> None:
    generator = np.random.default_rng(0)
    errors = np.sort(10 ** generator.uniform(-4, -2, (400, 4)), axis=1)
    for costs in (equation_8(errors, COSTS), lagrangian(errors, COSTS, np.ones(400))):
        for budget in np.linspace(0.1, 1, 20) * costs.total(select_candidates(costs, 0)):
            assert costs.total(select_within_budget(costs, budget)) == pytest.approx(
                budget, rel=0.01
            )


def test_the_error_of_a_budget_that_is_too_small_has_the_range() -> None:
    costs = equation_8(np.repeat(ERRORS, 2, 0), (*COSTS[:3], 1.0))
    with pytest.raises(UsageError, match=r"takes 3 at least and 49\.2 where"):
        select_within_budget(costs, 2.5, fixed=1)
    assert select_within_budget(costs, 1e9).tolist() == [
        0,
        0,
    ]  # more than can be spent well is no mistake


def test_flat_tiles_go_to_the_cheapest_and_unknown_ones_to_the_most_expensive() -> None:
    flat = [1e-9, 1e-9, 1e-9, FLAT_MSE / 2]
    unknown = [1e-3, np.nan, 1e-3, 1e-3]
    endless = [1e-3, 1e-3, 1e-3, np.inf]
    for costs in (
        equation_8([flat, unknown, endless], COSTS),
        lagrangian([flat, unknown, endless], COSTS, [1, 1, 1]),
    ):
        for beta in (0, 0.3, 10):
            assert select_candidates(costs, beta).tolist() == [3, 0, 0]
        assert not len(breakpoints(costs).t)


def test_ties_go_to_the_cheaper() -> None:
    assert select_candidates(equation_8([[1.0, 1.0, 1.0]], (3, 2, 1)), 0).tolist() == [2]
    assert select_candidates(equation_8([[0.5, 1.0]], (2, 1)), 1.0).tolist() == [
        1
    ]  # 0.5 + 1 = 1 + 0.5


@pytest.mark.parametrize("beta", [-0.1, float("nan"), float("inf")])
def test_a_beta_below_zero_is_refused(beta: float) -> None:
    with pytest.raises(UsageError, match="wanted a number of 0 or more"):
        select_candidates(equation_8(ERRORS, COSTS), beta)
