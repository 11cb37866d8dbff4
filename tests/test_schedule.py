"""The learning rate follows its schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinlens.training.schedule import (
    FLAT_SHARE,
    SCHEDULES,
    cosine,
    halve_once,
    three_halvings,
    trapezoid,
)
from thinlens.training.settings import Settings

PROGRESS = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_starts_at_one(name: str) -> None:
    assert SCHEDULES[name](0.0) == 1


@pytest.mark.parametrize("name", SCHEDULES)
@given(PROGRESS, PROGRESS)
def test_every_schedule_never_rises_and_stays_above_zero(name: str, a: float, b: float) -> None:
    early, late = SCHEDULES[name](min(a, b)), SCHEDULES[name](max(a, b))
    assert 1 >= early >= late > 0 or late == pytest.approx(0, abs=1e-12)


def test_cosine_is_half_way_in_the_middle() -> None:
    assert cosine(0.5) == pytest.approx(0.5)
    assert cosine(1 / 3) == pytest.approx(0.75)


def test_halvings_are_three() -> None:
    assert [three_halvings(x) for x in (0.49, 0.5, 0.75, 0.9)] == [1, 0.5, 0.25, 0.125]


@given(st.floats(0, FLAT_SHARE))
def test_a_trapezoid_is_exactly_flat_first(progress: float) -> None:
    assert trapezoid(progress) == 1


def test_a_trapezoid_then_falls_in_a_line() -> None:
    assert trapezoid(0.8) == pytest.approx(0.5)
    assert trapezoid(0.9) == pytest.approx(0.25)


def test_step_halves_at_two_thirds() -> None:
    assert [halve_once(k / 300) for k in (199, 200, 299)] == [1, 0.5, 0.5]


@given(st.integers(1, 100), st.sampled_from(list(SCHEDULES)))
def test_warmup_rises_in_a_line_to_the_schedule(warmup: int, schedule: str) -> None:
    warm = Settings(steps=200, warmup=warmup, schedule=schedule)
    cold = Settings(steps=200, warmup=0, schedule=schedule)
    for k in range(200):
        assert warm.lr_factor(k) == min(1, (k + 1) / warmup) * cold.lr_factor(k)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 300))
def test_runs_of_two_lengths_are_one_exactly_while_both_are_flat(a: int, b: int, k: int) -> None:
    short, long = Settings(steps=min(a, b), warmup=5), Settings(steps=max(a, b), warmup=5)
    agree = k <= short.steps and all(long.lr_factor(s) == short.lr_factor(s) for s in range(k))
    assert (long.differences(short, k) == []) == (agree or a == b)
    if k <= FLAT_SHARE * short.steps:
        assert long.differences(short, k) == []
