"""Are channels, weights and the rest the whole, does every criterion land where it says, and is
the extracted network the one in which the dead are 0?"""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fmp_cases import EXAMPLE, NETWORKS, Case, case
from thinlens.errors import RunError, UsageError
from thinlens.methods.channels.filter import masked
from thinlens.methods.channels.order import families, fewest, limits
from thinlens.methods.fmp.extraction import blanked, extracted, removed_parts
from thinlens.methods.fmp.search import shrink
from thinlens.methods.fmp.selection import CRITERIA, Landing
from thinlens.sparsity.layout import canonical, in_groups
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.summary import price


@given(st.lists(st.floats(-3, 3, width=32), min_size=1), st.floats(0, 2, width=32))
def test_a_proximal_step_shrinks_by_its_pull_and_never_crosses_zero(
    entries: list[float], pull: float
) -> None:
    before = torch.tensor(entries)
    after = before.clone()
    shrink(after, pull, torch.zeros(len(entries), dtype=torch.bool))
    assert (after * before >= 0).all()
    far = before.abs() > pull
    assert torch.equal(after[far].abs(), before[far].abs() - pull)
    assert (after[~far] == 0).all()
    held = before.clone()
    shrink(held, pull, torch.ones(len(entries), dtype=torch.bool))
    assert torch.equal(held, before)


def landed(found: Case, seed: int, *, greedy: bool = True) -> Landing:
    values = found.randomize(seed)
    return found.ledger.land(values, found.search.course.goal, greedy=greedy)


def dearest(found: Case) -> float:
    """What the dearest channel costs, as a part of the whole network."""
    ledger, labels = found.ledger, found.module.labels
    return max(1 - ledger._price([label]) / ledger.whole for label in labels)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("metric", ["macs", "params"])
@pytest.mark.parametrize("indicator", ["weight", "kernel", "nm"])
def test_a_criterion_lands_within_one_step_of_where_it_says(
    criterion: str, metric: str, indicator: str
) -> None:
    options = {"criterion": criterion, "metric": metric, "weight_share": 0.4, "groups_of": 4}
    found = case("edsr", "0.7", indicator=indicator, **options)
    goal = found.search.course.goal
    for seed, greedy in ((0, True), (1, True), (2, criterion == "weight")):
        landing = landed(found, seed, greedy=greedy)
        assert goal.met(landing.channels, landing.weights)
        channel = dearest(found)
        # the dearest piece: a weight, a kernel, or one of 4 in all groups of a layer
        sizes = {"weight": 1, "kernel": 9, "nm": 48 * 12 * 9 / 4}
        uses = 4 if metric == "params" else 4 * 16 * 16
        piece = uses * sizes[indicator] / found.ledger.whole
        if goal.channels is not None:
            assert landing.channels - goal.channels < channel
        if goal.weights is not None:
            assert landing.weights - goal.weights <= piece
        if goal.total is not None:
            assert landing.channels + landing.weights - goal.total < max(channel, piece)


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_weights_and_the_rest_are_the_whole_and_what_info_counts(name: str) -> None:
    found = case(name, "0.5", metric="params")
    landing = landed(found, 3)
    parts = removed_parts(found.model, found.channels, landing, EXAMPLE)
    thin, patterns = extracted(found.module, found.channels, landing, None, EXAMPLE)
    dense, left = (price(m, p, EXAMPLE[1:]).total for m, p in ((found.model, {}), (thin, patterns)))
    for metric, part in parts.items():
        assert sum(part.values()) == pytest.approx(1, abs=1e-12)
        assert part["left"] == pytest.approx(getattr(left, metric) / getattr(dense, metric))
        assert min(part["channels"], part["weights"]) > 0
    assert parts["params"]["channels"] == pytest.approx(float(landing.channels))
    assert parts["params"]["weights"] == pytest.approx(float(landing.weights))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("indicator", ["weight", "nm"])
def test_the_extracted_network_is_the_masked_one(name: str, indicator: str) -> None:
    found = case(name, "0.5", indicator=indicator, groups_of=4)
    landing = landed(found, 4)
    thin, patterns = extracted(found.module, found.channels, landing, 4, EXAMPLE)
    full = blanked(found.module, landing)
    image = torch.rand(2, 3, 20, 20, dtype=torch.float64)
    whole = masked(full, found.channels, landing.dead).double().eval()
    with torch.no_grad():
        wanted, got = whole(image), nn.Module.double(thin).eval()(image)
    assert (got - wanted).abs().max() <= 1e-12 * wanted.abs().max()
    assert all((prunable_layer(thin, k).weight[~p.mask] == 0).all() for k, p in patterns.items())
    assert patterns


def test_nm_masks_hold_in_every_group_of_what_is_left() -> None:
    found = case("edsr", "0.4", indicator="nm", groups_of=4)
    landing = landed(found, 5)
    thin, patterns = extracted(found.module, found.channels, landing, 4, EXAMPLE)
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
    alive = found.ledger.alive(values.vector, threshold)
    dead = set(found.ledger._dead(alive))
    for axes in found.channels.axes.values():
        for labels in axes:
            if labels is not None:
                left = sum(label not in dead for label in labels.tolist())
                assert left >= min(2, labels.numel())
    small = values.vector < threshold
    assert not (~alive & ~small).any()  # nothing dies that is large


KEPT = case("rfdn")


def test_limits_say_what_the_loop_over_all_axes_says() -> None:
    for family in families(KEPT.channels):
        generator = torch.Generator().manual_seed(len(family))
        ranked = [family[i] for i in torch.randperm(len(family), generator=generator).tolist()]
        staying = fewest(ranked, limits(family, KEPT.channels, 3))

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
    with pytest.raises(UsageError, match=r"the lowest reachable is (\d+\.\d+)% \(every") as caught:
        case("edsr", budget, criterion=criterion)
    lowest = float(str(caught.value).split("reachable is ")[1].split("%")[0])
    assert "\n" not in str(caught.value)
    found = case("edsr", f"{lowest + 0.5}%", criterion=criterion)
    landing = landed(found, 6)
    assert found.search.course.goal.met(landing.channels, landing.weights)


def test_landing_without_enough_is_a_sentence() -> None:
    found = case("edsr", "0.2")
    values = found.randomize(0)
    with pytest.raises(RunError, match="at most: wanted more"):
        found.ledger.land(values, found.search.course.goal)


def test_equal_values_die_one_by_one() -> None:
    """The budget is met exactly all the same."""
    found = case("edsr", "0.7", criterion="weight", metric="params")
    with torch.no_grad():
        for indicator in found.module.indicators():
            indicator.fill_(1.0)
    landing = found.ledger.land(
        found.search._values((0.0, 0.0)), found.search.course.goal, greedy=True
    )
    excess = landing.weights - Fraction(3, 10)
    assert 0 <= excess < Fraction(1, found.ledger.whole)


def test_what_takes_nothing_is_met_at_once() -> None:
    found = case("edsr", "1")
    landing = found.ledger.land(found.randomize(0), found.search.course.goal)
    masks: dict[str, Tensor] = landing.masks
    assert landing.dead == []
    assert all(mask.all() for mask in masks.values())
