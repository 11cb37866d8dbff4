"""A budget in milliseconds is the latency of the pruned network."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from native_engine import built
from thinlens import api
from thinlens.engine import latency
from thinlens.engine.latency import FRACTIONS, measure_latency_table
from thinlens.errors import UsageError
from thinlens.methods import METHODS
from thinlens.sparsity.budget import Budget, parse_milliseconds
from thinlens.sparsity.latency_table import LatencyTable
from thinlens.sparsity.prunable import find_layers
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

M, SIZE = 8, (6, 10)
EXAMPLE = (1, 3, *SIZE)


def network() -> nn.Module:
    torch.manual_seed(0)
    wide = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *wide, nn.Conv2d(16, 3, 3, padding=1))


def step_time(layer: str, part: float) -> float:
    """A machine where layer i takes 1 + i ms at most, and the dense kernel is as fast at 3/4."""
    return (1 + int(layer)) * 1e-3 * (0.1 + 0.9 * min(1.0, part / 0.75))


def fake(
    networks: Mapping[float, nn.Module], example: tuple[int, ...], threads: int
) -> dict[float, latency.StepTimes]:
    steps = ["", "0", "1", "2", "3", "4", ""]
    return {
        p: [(s, step_time(s, p) if s in "123" and s else 5e-4) for s in steps] for p in networks
    }


def priced() -> LatencyTable:
    layers = find_layers(network(), EXAMPLE, m=M)
    return measure_latency_table(network(), layers, EXAMPLE, 1, fake)


def test_prices_are_what_was_measured_and_rise() -> None:
    prices = priced()
    assert list(prices.tables) == ["1", "2", "3"]
    assert prices.other == 4 * 500_000
    for name, costs in prices.tables.items():
        assert len(costs) == M + 1
        assert all(a < b for a, b in itertools.pairwise(costs))
        for part in FRACTIONS:
            n = max(1, round(part * M))
            if n / M == part:
                assert costs[n] == pytest.approx(1e9 * step_time(name, part), abs=M + 1)


@given(st.fractions(Fraction(9, 2), Fraction(12)))
def test_a_budget_leaves_what_the_rest_does_not_take(time: Fraction) -> None:
    prices = priced()
    kept = prices.budget(time).kept
    total = prices.milliseconds(int(kept * prices.dense))
    assert total <= float(time) + 1e-5
    assert kept == 1 or total == pytest.approx(float(time), abs=1e-5)


def test_a_time_that_cannot_be_reached_is_refused_with_the_least() -> None:
    with pytest.raises(UsageError, match=r"below N = 1 in every layer: that takes \d\.\d\d ms"):
        priced().budget(Fraction(4))


@pytest.mark.parametrize("method", ["one-shot", "least-squares", "sls"])
@pytest.mark.parametrize("time", [5.0, 7.0])
def test_every_method_lands_on_its_milliseconds(
    method: str, time: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "measure_steps", fake)
    pairs = [(torch.rand(3, *SIZE), torch.rand(3, *SIZE)) for _ in range(2)]
    steps = 40 if method == "sls" else 0
    thin = api.prune(
        network(),
        budget=f"{time}ms",
        method=method,
        m=M,
        data=pairs,
        size=SIZE,
        trainer=Trainer(Settings(steps=steps)),
    )
    assert thin.record["budget_base"] == "milliseconds"
    assert thin.record["budget"] == pytest.approx(time, abs=1e-3)
    tables = priced().tables
    took = 2.0 + sum(tables[name][p.n or 0] for name, p in thin.patterns.items()) / 1e6
    assert thin.record["achieved"] == pytest.approx(took, abs=1e-6)
    unit = max(b - a for costs in tables.values() for a, b in itertools.pairwise(costs))
    assert time - unit / 1e6 < took <= time


def dense_soon(
    networks: Mapping[float, nn.Module], example: tuple[int, ...], threads: int
) -> dict[float, latency.StepTimes]:
    """A machine whose dense kernel runs layer 2 as fast as the sparse one at 3/8, the others
    never."""
    times = {p: {"1": 10 * p, "2": min(10 * p, 3.75), "3": 10 * p} for p in networks}
    return {p: [(s, 1e-3 * t) for s, t in by_layer.items()] for p, by_layer in times.items()}


@pytest.mark.parametrize("method", ["one-shot", "least-squares", "sls"])
def test_a_layer_stays_dense_where_dense_is_faster(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "measure_steps", dense_soon)
    pairs = [(torch.rand(3, *SIZE), torch.rand(3, *SIZE)) for _ in range(2)]
    thin = api.prune(
        network(),
        budget="12ms",
        method=method,
        m=M,
        data=pairs,
        size=SIZE,
        trainer=Trainer(Settings(steps=60 if method == "sls" else 0)),
    )
    kept = {name: pattern.n for name, pattern in thin.patterns.items()}
    assert kept["2"] == M
    assert kept["1"] < M and kept["3"] < M
    assert thin.record["achieved"] <= 12


def test_every_nm_method_takes_prices() -> None:
    prices = priced()
    for method in METHODS.values():
        if hasattr(method, "prices"):
            chosen = method(budget=Budget.parse(1), example=EXAMPLE, m=M, latency=prices)
            assert chosen.tables(network()) == prices.tables


@built
def test_real_steps_are_those_of_the_layers() -> None:
    layers = find_layers(network(), EXAMPLE, m=M)
    prices = measure_latency_table(network(), layers, EXAMPLE, 1)
    assert list(prices.tables) == ["1", "2", "3"]
    assert prices.other > 0
    assert all(costs[-1] > costs[0] >= 0 for costs in prices.tables.values())


@built
def test_what_the_engine_cannot_run_cannot_be_priced() -> None:
    strides = (1, 2)  # of one layer along its axes, which torch runs
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 16, 3, strides), nn.Conv2d(16, 3, 3)
    )
    with pytest.raises(UsageError, match="does not run layer '1'"):
        api.prune(module, budget="5ms", method="one-shot", m=M, size=(12, 12))


@pytest.mark.parametrize("text", ["40ms", " 40 ms", "40.0ms"])
def test_forty_milliseconds(text: str) -> None:
    assert parse_milliseconds(text) == 40


@pytest.mark.parametrize("text", ["ms", "0ms", "-1ms", "fastms", "1/0ms"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="wanted milliseconds"):
        parse_milliseconds(text)


def test_a_part_is_no_time() -> None:
    assert parse_milliseconds("1/8") is None and parse_milliseconds(0.125) is None


@built
def test_a_layer_that_runs_dense_has_one_price() -> None:
    """From where a dense kernel runs it, more weights cost nothing but the unit's nanosecond."""
    module = nn.Sequential(*(nn.Conv2d(c, 32, 3, padding=1) for c in (3, 32)), nn.Conv2d(32, 3, 1))
    example = (1, 3, 48, 64)
    costs = measure_latency_table(module, find_layers(module, example, m=M), example, 1).tables["1"]
    assert costs[M] - costs[M - 1] in (1, 2)  # rounded
