"""Are channels, weights and the rest the whole, does every criterion land where it says, and is
the extracted network the one in which the pruned are 0?"""

from __future__ import annotations

from fractions import Fraction
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fmp_cases import EXAMPLE, NETWORKS, Case, case
from thinlens.errors import RunError, UsageError
from thinlens.methods.channels.filter import zero_channels
from thinlens.methods.channels.order import coupled_groups, keep_limits, min_kept
from thinlens.methods.fmp.extraction import extract, masked_network, removed_cost
from thinlens.methods.fmp.search import proximal_step
from thinlens.methods.fmp.selection import Criterion, Selection, select
from thinlens.sparsity.layout import canonical, in_groups
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.summary import summarize


@given(st.lists(st.floats(-3, 3, width=32), min_size=1), st.floats(0, 2, width=32))
def test_a_proximal_step_shrinks_by_its_pull_and_never_crosses_zero(
    entries: list[float], pull: float
) -> None:
    before = torch.tensor(entries)
    after = before.clone()
    proximal_step(after, pull, torch.zeros(len(entries), dtype=torch.bool))
    assert (after * before >= 0).all()
    far = before.abs() > pull
    assert torch.equal(after[far].abs(), before[far].abs() - pull)
    assert (after[~far] == 0).all()
    held = before.clone()
    proximal_step(held, pull, torch.ones(len(entries), dtype=torch.bool))
    assert torch.equal(held, before)


def selected(found: Case, seed: int, *, greedy: bool = True) -> Selection:
    values = found.randomize(seed)
    return select(found.tracker, values, found.search.config.target, greedy=greedy)


def most_expensive(found: Case) -> float:
    """What the most expensive channel costs, as a fraction of the whole network."""
    tracker, labels = found.tracker, found.module.channel_ids
    return max(1 - tracker._channel_cost([label]) / tracker.whole for label in labels)


@pytest.mark.parametrize("criterion", get_args(Criterion))
@pytest.mark.parametrize("metric", ["macs", "params"])
@pytest.mark.parametrize("indicator", ["weight", "kernel", "nm"])
def test_a_criterion_is_met_within_one_step(criterion: str, metric: str, indicator: str) -> None:
    options = {"criterion": criterion, "metric": metric, "weight_share": 0.4, "m": 4}
    found = case("edsr", "0.7", indicator=indicator, **options)
    target = found.search.config.target
    for seed, greedy in ((0, True), (1, True), (2, criterion == "weight")):
        selection = selected(found, seed, greedy=greedy)
        assert target.met(selection.channels, selection.weights)
        channel = most_expensive(found)
        # the most expensive group: a weight, a kernel, or one of 4 in all groups of a layer
        sizes = {"weight": 1, "kernel": 9, "nm": 48 * 12 * 9 / 4}
        uses = 4 if metric == "params" else 4 * 16 * 16
        piece = uses * sizes[indicator] / found.tracker.whole
        if target.channels is not None:
            assert selection.channels - target.channels < channel
        if target.weights is not None:
            assert selection.weights - target.weights <= piece
        if target.total is not None:
            assert selection.channels + selection.weights - target.total < max(channel, piece)


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_weights_and_the_rest_are_the_whole_and_what_info_counts(name: str) -> None:
    found = case(name, "0.5", metric="params")
    selection = selected(found, 3)
    parts = removed_cost(found.model, found.channels, selection, EXAMPLE)
    thin, patterns = extract(found.module, found.channels, selection, None, EXAMPLE)
    dense, left = (
        summarize(m, p, EXAMPLE[1:]).total for m, p in ((found.model, {}), (thin, patterns))
    )
    for metric, part in parts.items():
        assert sum(part.values()) == pytest.approx(1, abs=1e-12)
        assert part["left"] == pytest.approx(getattr(left, metric) / getattr(dense, metric))
        assert min(part["channels"], part["weights"]) > 0
    assert parts["params"]["channels"] == pytest.approx(float(selection.channels))
    assert parts["params"]["weights"] == pytest.approx(float(selection.weights))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("indicator", ["weight", "nm"])
def test_the_extracted_network_is_the_masked_one(name: str, indicator: str) -> None:
    found = case(name, "0.5", indicator=indicator, m=4)
    selection = selected(found, 4)
    thin, patterns = extract(found.module, found.channels, selection, 4, EXAMPLE)
    full = masked_network(found.module, selection)
    image = torch.rand(2, 3, 20, 20, dtype=torch.float64)
    whole = zero_channels(full, found.channels, selection.pruned).double().eval()
    with torch.no_grad():
        wanted, got = whole(image), nn.Module.double(thin).eval()(image)
    assert (got - wanted).abs().max() <= 1e-12 * wanted.abs().max()
    assert all((prunable_layer(thin, k).weight[~p.mask] == 0).all() for k, p in patterns.items())
    assert patterns


def test_nm_masks_hold_in_every_group_of_what_is_left() -> None:
    found = case("edsr", "0.4", indicator="nm", m=4)
    selection = selected(found, 5)
    thin, patterns = extract(found.module, found.channels, selection, 4, EXAMPLE)
    assert patterns
    assert "head.0" not in patterns  # the ends stay dense
    assert "tail.1" not in patterns
    for name, pattern in patterns.items():
        layer = prunable_layer(thin, name)
        pattern.check(layer)
        assert pattern.n is not None
        rows = canonical(pattern.mask, layer)
        whole = rows[..., : rows.shape[-1] // 4 * 4]
        assert (in_groups(whole, 4, fill=0).sum(1) == pattern.n).all()


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 3.0]))
def test_every_layer_keeps_the_least_channels(seed: int, threshold: float) -> None:
    found = KEPT
    values = found.randomize(seed)
    kept = found.tracker.kept(values.vector, threshold)
    pruned = set(found.tracker.pruned_ids(kept))
    for axes in found.channels.axes.values():
        for labels in axes:
            if labels is not None:
                left = sum(label not in pruned for label in labels.tolist())
                assert left >= min(2, labels.numel())
    small = values.vector < threshold
    assert not (~kept & ~small).any()  # nothing large is pruned


KEPT = case("rfdn")


def test_limits_agree_with_a_loop_over_all_axes() -> None:
    for family in coupled_groups(KEPT.channels):
        generator = torch.Generator().manual_seed(len(family))
        ranked = [family[i] for i in torch.randperm(len(family), generator=generator).tolist()]
        staying = min_kept(ranked, keep_limits(family, KEPT.channels, 3))

        def enough(count: int, ranked: list[int] = ranked) -> bool:
            kept, own = set(ranked[:count]), set(ranked)
            for axes in KEPT.channels.axes.values():
                for labels in axes:
                    listed = [] if labels is None else labels.tolist()
                    mine = [label for label in listed if label in own]
                    left = len(listed) - sum(label not in kept for label in mine)
                    if mine and left < min(3, len(listed)):
                        return False
            return True

        assert enough(staying)
        assert staying == 0 or not enough(staying - 1)


@pytest.mark.parametrize(
    ("criterion", "budget"),
    [("channel", "1/100"), ("weight", "1/100"), ("total", "1/1000"), ("total-fixed", "1/50")],
)
def test_a_budget_out_of_reach_names_the_lowest(criterion: str, budget: str) -> None:
    with pytest.raises(
        UsageError, match=r"the lowest reachable is (\d+\.\d+)% \(at least"
    ) as caught:
        case("edsr", budget, criterion=criterion)
    lowest = float(str(caught.value).split("reachable is ")[1].split("%")[0])
    assert "\n" not in str(caught.value)
    found = case("edsr", f"{lowest + 0.5}%", criterion=criterion)
    selection = selected(found, 6)
    assert found.search.config.target.met(selection.channels, selection.weights)


def test_too_few_candidates_are_a_sentence() -> None:
    found = case("edsr", "0.2")
    values = found.randomize(0)
    with pytest.raises(RunError, match="at most: wanted more"):
        select(found.tracker, values, found.search.config.target)


def test_equal_values_are_pruned_one_by_one() -> None:
    """The budget is met exactly all the same."""
    found = case("edsr", "0.7", criterion="weight", metric="params")
    with torch.no_grad():
        for indicator in found.module.indicators():
            indicator.fill_(1.0)
    selection = select(
        found.tracker, found.search._magnitudes((0.0, 0.0)), found.search.config.target, greedy=True
    )
    excess = selection.weights - Fraction(3, 10)
    assert 0 <= excess < Fraction(1, found.tracker.whole)


def test_a_budget_of_all_prunes_nothing() -> None:
    found = case("edsr", "1")
    selection = select(found.tracker, found.randomize(0), found.search.config.target)
    masks: dict[str, Tensor] = selection.masks
    assert selection.pruned == []
    assert all(mask.all() for mask in masks.values())
