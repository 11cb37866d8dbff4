"""Selection in FMP: the channels and weights to prune so that a target is met."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor

from thinlens.errors import RunError, check_choice
from thinlens.methods.fmp.cost_tracker import CostTracker, Magnitudes

Criterion = Literal["channel", "weight", "total-fixed", "total"]
"""The supplement's four convergence criteria (section 2.2)."""

THRESHOLD_BISECTIONS = 40
"""Bisection steps of a threshold; 40 exhaust float32."""

FRACTION_BISECTIONS = 14
"""Bisection steps of a fraction of the cost, to 0.01 %."""


@dataclass(frozen=True)
class Target:
    """The fractions of the cost that have to be removed; None: no requirement."""

    channels: Fraction | None = None
    """gamma_C."""
    weights: Fraction | None = None
    """gamma_W."""
    total: Fraction | None = None
    """gamma_C + gamma_W."""

    @classmethod
    def of(cls, criterion: str, removed: Fraction, weight_share: float) -> Target:
        """Return the target of a criterion when the fraction `removed` is to be removed."""
        check_choice("criterion", criterion, get_args(Criterion))
        if criterion == "total-fixed":
            by_weights = removed * Fraction(weight_share).limit_denominator(10**6)
            return cls(channels=removed - by_weights, weights=by_weights)
        field = {"channel": "channels", "weight": "weights", "total": "total"}[criterion]
        return cls(**{field: removed})

    @property
    def max_channels(self) -> Fraction | None:
        """Upper bound on the cost removed by channels when weights have a target too, so that
        enough weights remain: the channels' target, or half of the rest."""
        if self.weights is None:
            return None
        return (1 - self.weights) / 2 if self.channels is None else self.channels

    def met(self, channels: Fraction, weights: Fraction) -> bool:
        """Return whether the removed fractions meet the target."""
        pairs = ((self.channels, channels), (self.weights, weights))
        enough = all(target is None or removed >= target for target, removed in pairs)
        return enough and (self.total is None or channels + weights >= self.total)


@dataclass(frozen=True, eq=False)
class Selection:
    """Channels and weights to prune so that the target is met."""

    pruned: list[int]
    """Channel ids."""
    masks: dict[str, Tensor]
    """The kept entries of a layer's weight, in its whole shape; none in pruned channels."""
    n: dict[str, int | None]
    """N by layer; None where a mask is not N:M."""
    channels: Fraction
    """The fraction of the cost that is removed with channels."""
    weights: Fraction


def lowest_cost(
    tracker: CostTracker, magnitudes: Magnitudes, target: Callable[[Fraction], Target]
) -> Fraction:
    """Return the lowest reachable fraction of the cost; `target` is called with the removed one."""
    low, high = Fraction(0), Fraction(1)
    for _ in range(FRACTION_BISECTIONS):
        middle = (low + high) / 2
        try:
            select(tracker, magnitudes, target(middle), greedy=True)
        except RunError:
            high = middle
        else:
            low = middle
    return 1 - low


def select(
    tracker: CostTracker, magnitudes: Magnitudes, target: Target, *, greedy: bool = False
) -> Selection:
    """Select the smallest set to prune that meets the target.

    Candidates are below the thresholds, or, if `greedy`, below thresholds that are raised until
    the target is met; the smallest come first. For a total target both thresholds are raised
    together. Raises `RunError` if there are not enough candidates.
    """
    low, channel_factor, weight_factor = _threshold_factors(tracker, magnitudes, target, greedy)
    kept = _select_channels(tracker, magnitudes, target, low, (channel_factor, weight_factor))
    by_channels = tracker.removed_by_channels(kept)
    needed = None if target.weights is target.total is None else target.weights
    if target.total is not None:
        needed = target.total - by_channels
    pruned = _select_weights(tracker, magnitudes, kept, (low, weight_factor), needed)
    cost, masks, n = 0, {}, {}
    for index, (name, layer) in enumerate(zip(tracker.names, tracker.weights, strict=True)):
        indicator = magnitudes.indicators[index]
        remaining = tracker.remaining(index, kept, indicator)
        _, costs = layer.groups(indicator, *remaining)
        cost += int(costs[pruned[index]].sum())
        masks[name] = layer.mask(indicator, *remaining, pruned[index]).cpu()
        n[name] = None if layer.m is None else int((~pruned[index]).sum())
    selection = Selection(
        tracker.pruned_ids(kept), masks, n, by_channels, Fraction(cost, tracker.whole)
    )
    if not target.met(selection.channels, selection.weights):
        raise RunError(
            f"channels take {float(selection.channels):.2%} and weights "
            f"{float(selection.weights):.2%} of the cost at most: wanted more"
        )
    return selection


def _threshold_factors(
    tracker: CostTracker, magnitudes: Magnitudes, target: Target, greedy: bool
) -> tuple[float, float, float]:
    """Return factors of the thresholds: one that is not enough, and sufficient ones for channels
    and weights."""
    if target.total is None:
        most = inf if greedy else 1.0
        return 0.0, most if target.channels else 1.0, most if target.weights else 1.0

    def met(factor: float) -> bool:
        kept = tracker.kept(magnitudes.vector, factor * magnitudes.channel_threshold)
        return target.met(
            tracker.removed_by_channels(kept), tracker.removed_by_weights(magnitudes, kept, factor)
        )

    low, high = 0.0, 1.0
    if greedy and not met(inf):
        return low, inf, inf
    while greedy and not met(high):
        low, high = high, high * 2
    for _ in range(THRESHOLD_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if met(middle) else (middle, high)
    return low, high, high


def _select_channels(
    tracker: CostTracker,
    magnitudes: Magnitudes,
    target: Target,
    low: float,
    high: tuple[float, float],
) -> Tensor:
    """Return which entries of the vector are kept: of those between the factors the fewest are
    pruned that meet the target, and enough weights remain where only these have one."""
    least = tracker.kept(magnitudes.vector, high[0] * magnitudes.channel_threshold)
    most = tracker.kept(magnitudes.vector, low * magnitudes.channel_threshold)
    between = (most & ~least).nonzero()[:, 0]
    between = between[magnitudes.vector[between].argsort(stable=True)]

    def pruned_first(count: int) -> Tensor:
        kept = most.clone()
        kept[between[:count]] = False
        return kept

    def enough(count: int) -> bool:
        kept = pruned_first(count)
        if target.total is not None:
            removed = tracker.removed_by_channels(kept) + tracker.removed_by_weights(
                magnitudes, kept, low
            )
            return removed >= target.total
        if target.channels is not None:
            return tracker.removed_by_channels(kept) >= target.channels
        more = pruned_first(count + 1)
        too_many = tracker.removed_by_channels(more) > (target.max_channels or 0)
        return too_many or tracker.removed_by_weights(magnitudes, more, high[1]) < (
            target.weights or 0
        )

    return pruned_first(bisect_left(range(len(between)), True, key=enough))


def _select_weights(
    tracker: CostTracker,
    magnitudes: Magnitudes,
    kept: Tensor,
    factors: tuple[float, float],
    needed: Fraction | None,
) -> list[Tensor]:
    """Return which weight groups of every layer are pruned: the fewest of those between the
    factors, the smallest of all layers first; all of them if `needed` is None."""
    sizes, costs, low, high = [], [], [], []
    for index, layer in enumerate(tracker.weights):
        indicator = magnitudes.indicators[index]
        groups = layer.groups(indicator, *tracker.remaining(index, kept, indicator))
        sizes.append(groups[0])
        costs.append(groups[1])
        below = [layer.below(groups[0], x * magnitudes.weight_threshold) for x in factors]
        low.append(below[0])
        high.append(below[1])
    lengths = [len(layer_sizes) for layer_sizes in sizes]
    pruned, candidates = torch.cat(low), torch.cat(high)
    if needed is None:
        return list(torch.split(candidates, lengths))
    cost = torch.cat(costs)
    missing = -(-needed * tracker.whole // 1) - int(cost[pruned].sum())  # rounded up
    between = (candidates & ~pruned).nonzero()[:, 0]
    between = between[torch.cat(sizes)[between].argsort(stable=True)]
    sums = cost[between].cumsum(0)
    pruned[between[: int((sums < missing).sum()) + 1 if missing > 0 else 0]] = True
    return list(torch.split(pruned, lengths))
