"""Is the algebra of choosing and refitting weights right, against what can be tried one by one?"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from thinlens.methods.least_squares.compensation import (
    NMConstraint,
    damped,
    dense_solution,
    joint_mask,
    refit,
    second_order_mask,
    shrunk_towards_zero,
)
from thinlens.methods.moments import Moments

NO_RIDGE = 1e-12


def problem(seed: int, shape: tuple[int, int, int], rows: int = 400) -> tuple[Moments, Tensor]:
    """Correlated inputs of `shape` = (conv groups, outputs, columns), and weights for them."""
    groups, outputs, columns = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    x = normal(groups, rows, columns) @ normal(groups, columns, columns)
    weight = normal(groups, outputs, columns)
    y = x @ weight.mT + 0.1 * normal(groups, rows, outputs)
    return moments_of(x, y), weight


def moments_of(x: Tensor, y: Tensor) -> Moments:
    rows = x.shape[1]
    nothing = torch.zeros(x.shape[0], 1, dtype=torch.float64)
    xx, xy, yy = x.mT @ x / rows, x.mT @ y / rows, y.square().mean(1)
    return Moments(xx, xy, yy, nothing.expand(-1, x.shape[2]), nothing.expand(-1, y.shape[2]))


@st.composite
def rules(draw: st.DrawFn) -> tuple[NMConstraint, int]:
    """A rule and how many runs of channels there are; the last group may be short."""
    channels, m = draw(st.integers(1, 7)), draw(st.integers(2, 5))
    return NMConstraint(draw(st.integers(1, m)), m, channels), draw(st.integers(1, 3))


@pytest.mark.parametrize("choose", [second_order_mask, joint_mask])
@given(case=rules(), seed=st.integers(0, 99))
def test_every_group_keeps_n(choose, case: tuple[NMConstraint, int], seed: int) -> None:  # type: ignore[no-untyped-def]
    rule, runs = case
    moments, weight = problem(seed, (2, 3, runs * rule.channels))
    mask = choose(moments, weight, rule)
    spans = rule.spans(weight.shape[-1])
    assert sum(span.stop - span.start for span in spans) == weight.shape[-1]
    for span in spans:
        assert (mask[..., span].sum(-1) == min(rule.n, span.stop - span.start)).all()


def nearly_tied(magnitudes: torch.Tensor, rule: NMConstraint) -> bool:
    """Whether a group's smallest kept weight is within 5 % of its largest pruned one: ADMM stops
    at a tolerance, within which it may keep either."""
    for span in rule.spans(magnitudes.shape[-1]):
        group = magnitudes[..., span].sort(dim=-1, descending=True).values
        if group.shape[-1] > rule.n and (group[..., rule.n] > 0.95 * group[..., rule.n - 1]).any():
            return True
    return False


@pytest.mark.parametrize("choose", [second_order_mask, joint_mask])
@given(case=rules(), seed=st.integers(0, 99))
def test_on_white_inputs_second_order_is_magnitude(  # type: ignore[no-untyped-def]
    choose, case: tuple[NMConstraint, int], seed: int
) -> None:
    rule, runs = case
    moments, weight = problem(seed, (1, 3, runs * rule.channels))
    white = torch.eye(weight.shape[-1], dtype=torch.float64)[None]
    moments = Moments(white, white @ weight.mT, moments.yy, moments.mean_x, moments.mean_y)
    assume(not nearly_tied(weight.abs(), rule))
    assert torch.equal(choose(moments, weight, rule), rule.largest(weight.abs()))


def test_elimination_equals_solving_for_what_is_right_of_every_removed_column() -> None:
    """Column by column: the cost of a removal, and the columns to the right that answer it."""
    moments, start = problem(1, (1, 4, 6))
    rule = NMConstraint(n=1, m=3, channels=3)
    gram = damped(moments, 0.01)[0][0]
    weight, expected = start[0].clone(), torch.ones(4, 6, dtype=torch.bool)

    def answered(w: Tensor, column: int) -> Tensor:
        """Remove `column` of one output; those right of it move to keep the error least."""
        change = torch.zeros_like(w)
        change[column] = -w[column]
        right = slice(column + 1, len(w))
        if column + 1 < len(w):
            change[right] = torch.linalg.solve(
                gram[right, right], -gram[right, column] * change[column]
            )
        return change

    for output in range(4):
        for first in (0, 3):
            costs = []
            for column in range(first, first + 3):
                change = answered(weight[output], column)
                costs.append(float(change @ gram @ change))
            kept = first + int(np.argmax(costs))
            for column in range(first, first + 3):
                if column != kept:
                    expected[output, column] = False
                    weight[output] += answered(weight[output], column)
    assert torch.equal(second_order_mask(moments, start, rule, 0.01)[0], expected)


@pytest.mark.parametrize("seed", range(6))
def test_joint_choice_is_near_the_best_of_all(seed: int) -> None:
    """Of all 6 x 6 x 6 supports the chosen one is within the best few; magnitude's is worse."""
    moments, weight = problem(seed, (1, 1, 12))
    rule = NMConstraint(n=2, m=4, channels=4)
    start = dense_solution(moments, weight, NO_RIDGE)

    def error(mask: Tensor) -> float:
        return float(moments.error(refit(moments, weight, mask, NO_RIDGE)))

    errors = []
    pairs = list(combinations(range(4), 2))
    for a in pairs:
        for b in pairs:
            for c in pairs:
                mask = torch.zeros(1, 1, 12, dtype=torch.bool)
                mask[..., [*a, *(4 + i for i in b), *(8 + i for i in c)]] = True
                errors.append(error(mask))
    found = error(joint_mask(moments, start, rule))
    assert sum(e < found - 1e-9 for e in errors) <= 0.1 * len(errors)


def test_joint_choice_errs_less_than_the_others_on_average() -> None:
    errors = {"joint": 0.0, "second-order": 0.0, "magnitude": 0.0}
    for seed in range(8):
        moments, weight = problem(seed, (1, 8, 36))
        rule = NMConstraint(n=3, m=12, channels=12)
        masks = {
            "joint": joint_mask(moments, weight, rule),
            "second-order": second_order_mask(moments, weight, rule),
            "magnitude": rule.largest(weight.abs()),
        }
        for name, mask in masks.items():
            solved = refit(moments, weight, mask, 1e-3)
            errors[name] += float((moments.error(solved) / moments.yy).mean())
    assert errors["joint"] < errors["second-order"] < errors["magnitude"]


@given(case=rules(), seed=st.integers(0, 99), share=st.sampled_from((NO_RIDGE, 1e-3, 1.0)))
def test_refitting_never_errs_more_than_the_weights_it_starts_from(
    case: tuple[NMConstraint, int], seed: int, share: float
) -> None:
    rule, runs = case
    moments, weight = problem(seed, (2, 3, runs * rule.channels))
    mask = rule.largest(weight.abs())
    solved = refit(moments, weight, mask, share)
    assert (solved[~mask] == 0).all()
    assert (moments.error(solved) <= moments.error(weight * mask) + 1e-9 * moments.yy).all()


def test_refit_is_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against numpy's, with rows that keep different numbers of columns, one row at a time."""
    monkeypatch.setattr("thinlens.methods.least_squares.compensation.REFIT_BYTES", 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 50, 7, generator=generator, dtype=torch.float64)
    y = torch.randn(1, 50, 3, generator=generator, dtype=torch.float64)
    mask = torch.rand(1, 3, 7, generator=generator) < 0.6
    mask[0, 1] = True
    original = torch.zeros(1, 3, 7, dtype=torch.float64)
    solved = refit(moments_of(x, y), original, mask, NO_RIDGE)
    for output in range(3):
        kept = mask[0, output].numpy()
        expected, *_ = np.linalg.lstsq(x[0].numpy()[:, kept], y[0, :, output].numpy(), rcond=None)
        np.testing.assert_allclose(solved[0, output].numpy()[kept], expected, rtol=1e-8)


def test_the_ridge_draws_towards_the_original() -> None:
    moments, weight = problem(0, (1, 2, 6))
    other, mask = weight + 1, torch.ones_like(weight, dtype=torch.bool)
    near, far = refit(moments, other, mask, 1e9), refit(moments, other, mask, NO_RIDGE)
    torch.testing.assert_close(near, shrunk_towards_zero(moments, other))
    torch.testing.assert_close(far, dense_solution(moments, other, NO_RIDGE))


@given(st.integers(0, 99), st.floats(1e-4, 1e3), st.floats(-3, 3), st.floats(1e-3, 10))
def test_no_solution_is_worse_than_silence(
    seed: int, far: float, sign: float, ridge: float
) -> None:
    moments, weight = problem(seed, (2, 3, 6))
    original = sign * far * weight.flip(-1)  # nothing like what answers well
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    for solved in (
        shrunk_towards_zero(moments, original),
        dense_solution(moments, original, ridge),
        refit(moments, original, mask, ridge),
    ):
        assert (moments.error(solved) <= moments.yy * (1 + 1e-9)).all()


def test_healthy_weights_are_left_at_their_size() -> None:
    x = torch.randn(1, 50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.arange(21, dtype=torch.float64).reshape(1, 3, 7)
    torch.testing.assert_close(shrunk_towards_zero(moments_of(x, x @ weight.mT), weight), weight)


def test_a_layer_that_sees_nothing_keeps_its_weights() -> None:
    nothing = torch.zeros(1, 3, 4, dtype=torch.float64)
    moments = moments_of(torch.zeros(1, 5, 4).double(), torch.zeros(1, 5, 3).double())
    weight = nothing + 2
    rule = NMConstraint(n=1, m=2, channels=2)
    for mask in (second_order_mask(moments, weight, rule), joint_mask(moments, weight, rule)):
        assert torch.equal(refit(moments, weight, mask, 1e-3), weight * mask)
