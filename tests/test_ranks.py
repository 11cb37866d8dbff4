"""Ranks are a permutation of every group, and their masks keep the largest weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from small_layers import layers
from thinlens.errors import UsageError
from thinlens.sparsity.layout import PrunableModule, canonical
from thinlens.sparsity.pattern import Pattern, SharedRanks, pattern_from_ranks
from thinlens.sparsity.ranks import magnitude_ranks, ranks


def groups_of(tensor: Tensor, layer: PrunableModule, m: int) -> list[list[float]]:
    """Cut by hand: rows of canonical order, then slices of m."""
    rows = canonical(tensor.detach(), layer).flatten(end_dim=-2).tolist()
    return [row[start : start + m] for row in rows for start in range(0, len(row), m)]


@given(layers(), st.sampled_from((1, 2, 3, 4, 8, 255)))
def test_ranks_are_a_permutation_of_every_group(layer: PrunableModule, m: int) -> None:
    ranked = magnitude_ranks(layer.weight, layer, m)
    assert ranked.dtype == torch.uint8
    assert ranked.shape == layer.weight.shape
    for group in groups_of(ranked, layer, m):
        assert sorted(group) == list(range(1, len(group) + 1))
    SharedRanks(ranked, m).check(layer)


@given(layers(), st.integers(1, 8), st.data())
def test_a_mask_keeps_the_n_best_and_of_equals_the_first(
    layer: PrunableModule, m: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, m))
    pattern = pattern_from_ranks(magnitude_ranks(layer.weight, layer, m), n, m)
    pattern.check(layer)
    kept = groups_of(pattern.mask, layer, m)
    for values, alive in zip(groups_of(layer.weight.abs(), layer, m), kept, strict=True):
        best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:n]
        assert alive == [i in best for i in range(len(values))]
    assert pattern.kept == sum(min(n, len(group)) for group in kept)


def test_equal_weights_are_ranked_by_channel() -> None:
    layer = nn.Conv2d(255, 2, 3)
    ranked = magnitude_ranks(torch.ones_like(layer.weight), layer, 255)
    expected = torch.arange(1, 256, dtype=torch.uint8)[None, :, None, None]
    assert torch.equal(ranked, expected.expand_as(ranked))


def test_minus_infinity_ranks_before_what_fills_a_short_group() -> None:
    layer = nn.Linear(3, 1)
    ranked = ranks(torch.tensor([[-torch.inf, -torch.inf, 1.0]]), layer, 8)
    assert ranked.tolist() == [[2, 3, 1]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_float_type_is_ranked(dtype: torch.dtype) -> None:
    assert ranks(torch.tensor([[1, 3, 2]], dtype=dtype), nn.Linear(3, 1), 3).tolist() == [[3, 1, 2]]


def test_nan_is_refused() -> None:
    layer = nn.Linear(4, 1)
    with pytest.raises(UsageError, match="NaN"):
        ranks(torch.tensor([[1.0, torch.nan, 0, 0]]), layer, 2)


@pytest.mark.parametrize("m", [0, -1, 256])
def test_an_m_that_uint8_cannot_hold_is_refused(m: int) -> None:
    layer = nn.Linear(4, 1)
    with pytest.raises(UsageError, match=f"M = {m}"):
        magnitude_ranks(layer.weight, layer, m)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (Pattern(torch.ones(1, 3, dtype=torch.bool)), "shaped"),
        (Pattern(torch.ones(1, 4)), "bool"),
        (Pattern(torch.tensor([[True, True, False, False]]), 1, 2), "keeps 2"),
        (SharedRanks(torch.tensor([[1, 2, 1, 1]], dtype=torch.uint8), 2), "no permutation"),
        (SharedRanks(torch.tensor([[0, 1, 1, 2]], dtype=torch.uint8), 2), "no permutation"),
        (SharedRanks(torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8), 3), "no permutation"),
        (SharedRanks(torch.tensor([[1, 2, 1, 2]]), 2), "uint8"),
    ],
)
def test_what_does_not_fit_a_layer_is_refused(pattern: Pattern | SharedRanks, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        pattern.check(nn.Linear(4, 1))


def test_a_branch_of_shared_ranks_is_the_mask_of_its_n() -> None:
    ranked = SharedRanks(torch.tensor([[1, 2, 2, 1]], dtype=torch.uint8), 2)
    assert ranked.pattern(1).mask.tolist() == [[True, False, False, True]]
