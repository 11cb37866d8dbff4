"""What have dead channels and dead weights taken off a network, and who dies for a goal? (FMP)

The books of the supplement's Table 3: what channels removed, what zeroed weights removed in the
channels that are left, and the rest make the whole.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf

import torch
from torch import Tensor

from thinlens.errors import RunError, UsageError
from thinlens.methods.channels.order import families, fewest, limits
from thinlens.methods.fmp.granularity import Weights
from thinlens.methods.fmp.hypernetwork import Hypernetwork
from thinlens.sparsity.channels import Channels

CRITERIA = ("channel", "weight", "total-fixed", "total")
"""The supplement's four convergence criteria (section 2.2)."""

HALVINGS = 40
"""Bisections of a threshold: float32 tells no more apart."""

FINE = 14
"""Bisections of a part, to 0.01 % of the cost."""


@dataclass(frozen=True)
class Goal:
    """The parts of the cost that have to be removed; None asks for nothing."""

    channels: Fraction | None = None
    """gamma_C."""
    weights: Fraction | None = None
    """gamma_W."""
    total: Fraction | None = None
    """gamma_C + gamma_W."""

    @classmethod
    def of(cls, criterion: str, removed: Fraction, weight_share: float) -> Goal:
        """Read a criterion and the part that is to be removed."""
        if criterion not in CRITERIA:
            raise UsageError(f"criterion {criterion!r}: wanted {', '.join(CRITERIA)}")
        if criterion == "total-fixed":
            by_weights = removed * Fraction(weight_share).limit_denominator(10**6)
            return cls(channels=removed - by_weights, weights=by_weights)
        part = {"channel": "channels", "weight": "weights", "total": "total"}[criterion]
        return cls(**{part: removed})

    @property
    def most_channels(self) -> Fraction | None:
        """What channels may take where weights have a goal: their own goal, or half of what the
        weights' leaves, lest there be no weights left to take."""
        if self.weights is None:
            return None
        return (1 - self.weights) / 2 if self.channels is None else self.channels

    def met(self, channels: Fraction, weights: Fraction) -> bool:
        """Tell whether so much removed is enough."""
        parts = ((self.channels, channels), (self.weights, weights))
        enough = all(goal is None or part >= goal for goal, part in parts)
        return enough and (self.total is None or channels + weights >= self.total)


@dataclass(frozen=True, eq=False)
class Values:
    """By what channels and weights are judged: sizes, and the thresholds under which they die."""

    vector: Tensor
    """`[L]`, on the CPU."""
    indicators: list[Tensor]
    channel_threshold: float
    weight_threshold: float


@dataclass(frozen=True, eq=False)
class Landing:
    """Who dies."""

    dead: list[int]
    """Labels of channels."""
    masks: dict[str, Tensor]
    """What lives of a layer's weight, in its whole shape; nothing of dead channels does."""
    n: dict[str, int | None]
    """N by layer; None where a mask is not N:M."""
    channels: Fraction
    """The part of the cost that left with channels."""
    weights: Fraction


class Ledger:
    """Prices the dead of a hypernetwork."""

    def __init__(
        self,
        module: Hypernetwork,
        channels: Channels,
        weights: Sequence[Weights],
        price: Callable[[list[int]], int],
        least: int,
    ) -> None:
        """Price by `price(dead labels)`; every axis keeps `least` channels."""
        self._labels, self._names = module.labels, module.names
        self._weights, self._price = weights, price
        self._axes = [(first.cpu(), second.cpu()) for first, second in module.places()]
        places = {label: place for place, label in enumerate(module.labels)}
        self._families = [
            ([places[label] for label in family], limits(family, channels, least))
            for family in families(channels)
            if family
        ]
        self.whole = price([])
        self._last: tuple[list[int], int] = ([], self.whole)

    def alive(self, vector: Tensor, threshold: float) -> Tensor:
        """Tell which entries of the vector live, bool `[L]`: not those under the threshold, but
        for the largest of each family where an axis would have too few channels."""
        alive = vector >= threshold
        for ranked, staying in self._ranked(vector):
            alive[ranked[:staying]] = True
        return alive

    def at_least(self, vector: Tensor, threshold: float) -> Tensor:
        """Tell which entries belong to families that can lose no more, bool `[L]`."""
        held = torch.zeros(len(vector), dtype=torch.bool)
        for ranked, staying in self._ranked(vector):
            held[ranked] = int((vector[ranked] >= threshold).sum()) <= staying
        return held

    def extinct(self, vector: Tensor, threshold: float) -> int | None:
        """Return a label of a family that may shrink, all of whose entries are under the
        threshold."""
        for ranked, staying in self._ranked(vector):
            if len(ranked) > staying and vector[ranked[0]] < threshold:
                return self._labels[min(ranked)]
        return None

    def by_channels(self, alive: Tensor) -> Fraction:
        """Return the part of the cost that dead channels take."""
        dead = self._dead(alive)
        if dead != self._last[0]:
            self._last = (dead, self._price(dead))
        return 1 - Fraction(self._last[1], self.whole)

    def by_weights(self, values: Values, alive: Tensor, factor: float) -> Fraction:
        """Return the part that weights take which are under `factor` times the threshold."""
        cost = 0
        for index, layer in enumerate(self._weights):
            indicator = values.indicators[index]
            sizes, costs = layer.pieces(indicator, *self._living(index, alive, indicator))
            cost += int(costs[layer.dead(sizes, factor * values.weight_threshold)].sum())
        return Fraction(cost, self.whole)

    def judge(self, values: Values) -> tuple[Fraction, Fraction]:
        """Return what channels and weights take that are under their thresholds."""
        alive = self.alive(values.vector, values.channel_threshold)
        return self.by_channels(alive), self.by_weights(values, alive, 1)

    def lowest(self, values: Values, goal: Callable[[Fraction], Goal]) -> Fraction:
        """Return the lowest part of the cost that can be left; `goal` takes what is removed."""
        low, high = Fraction(0), Fraction(1)
        for _ in range(FINE):
            middle = (low + high) / 2
            try:
                self.land(values, goal(middle), greedy=True)
            except RunError:
                high = middle
            else:
                low = middle
        return 1 - low

    def land(self, values: Values, goal: Goal, *, greedy: bool = False) -> Landing:
        """Choose who dies so that the goal is met and one more alive would be too much.

        Those under the thresholds die, the smallest first, or, if `greedy`, as many as it takes.
        For the goal `total` both thresholds rise together. Raises `RunError` if there are not
        enough.
        """
        low, of_channels, of_weights = self._factors(values, goal, greedy)
        alive = self._landed_channels(values, goal, low, (of_channels, of_weights))
        taken = self.by_channels(alive)
        needed = None if goal.weights is goal.total is None else goal.weights
        if goal.total is not None:
            needed = goal.total - taken
        dead = self._landed_weights(values, alive, (low, of_weights), needed)
        cost, masks, n = 0, {}, {}
        for index, (name, layer) in enumerate(zip(self._names, self._weights, strict=True)):
            indicator = values.indicators[index]
            living = self._living(index, alive, indicator)
            _, costs = layer.pieces(indicator, *living)
            cost += int(costs[dead[index]].sum())
            masks[name] = layer.mask(indicator, *living, dead[index]).cpu()
            n[name] = None if layer.m is None else int((~dead[index]).sum())
        landing = Landing(self._dead(alive), masks, n, taken, Fraction(cost, self.whole))
        if not goal.met(landing.channels, landing.weights):
            raise RunError(
                f"channels take {float(landing.channels):.2%} and weights "
                f"{float(landing.weights):.2%} of the cost at most: wanted more"
            )
        return landing

    def _factors(self, values: Values, goal: Goal, greedy: bool) -> tuple[float, float, float]:
        """Return how far thresholds are raised: one that is not enough, and those of channels and
        weights that are."""
        if goal.total is None:
            most = inf if greedy else 1.0
            return 0.0, most if goal.channels else 1.0, most if goal.weights else 1.0

        def met(factor: float) -> bool:
            alive = self.alive(values.vector, factor * values.channel_threshold)
            return goal.met(self.by_channels(alive), self.by_weights(values, alive, factor))

        low, high = 0.0, 1.0
        if greedy and not met(inf):
            return low, inf, inf
        while greedy and not met(high):
            low, high = high, high * 2
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if met(middle) else (middle, high)
        return low, high, high

    def _landed_channels(
        self, values: Values, goal: Goal, low: float, high: tuple[float, float]
    ) -> Tensor:
        """Return which entries of the vector live: enough of those between the factors die, and no
        more than leave enough weights to take where only these count."""
        least = self.alive(values.vector, high[0] * values.channel_threshold)
        most = self.alive(values.vector, low * values.channel_threshold)
        between = (most & ~least).nonzero()[:, 0]
        between = between[values.vector[between].argsort(stable=True)]

        def without(count: int) -> Tensor:
            alive = most.clone()
            alive[between[:count]] = False
            return alive

        def enough(count: int) -> bool:
            alive = without(count)
            if goal.total is not None:
                removed = self.by_channels(alive) + self.by_weights(values, alive, low)
                return removed >= goal.total
            if goal.channels is not None:
                return self.by_channels(alive) >= goal.channels
            more = without(count + 1)
            too_many = self.by_channels(more) > (goal.most_channels or 0)
            return too_many or self.by_weights(values, more, high[1]) < (goal.weights or 0)

        return without(bisect_left(range(len(between)), True, key=enough))

    def _landed_weights(
        self,
        values: Values,
        alive: Tensor,
        factors: tuple[float, float],
        needed: Fraction | None,
    ) -> list[Tensor]:
        """Return which pieces of every layer die: enough of those between the factors, the
        smallest of all layers first; all of them if nothing says what is needed."""
        sizes, costs, low, high = [], [], [], []
        for index, layer in enumerate(self._weights):
            indicator = values.indicators[index]
            pieces = layer.pieces(indicator, *self._living(index, alive, indicator))
            sizes.append(pieces[0])
            costs.append(pieces[1])
            under = [layer.dead(pieces[0], x * values.weight_threshold) for x in factors]
            low.append(under[0])
            high.append(under[1])
        lengths = [len(piece) for piece in sizes]
        dead, candidates = torch.cat(low), torch.cat(high)
        if needed is None:
            return list(torch.split(candidates, lengths))
        cost = torch.cat(costs)
        short = -(-needed * self.whole // 1) - int(cost[dead].sum())  # rounded up
        between = (candidates & ~dead).nonzero()[:, 0]
        between = between[torch.cat(sizes)[between].argsort(stable=True)]
        sums = cost[between].cumsum(0)
        dead[between[: int((sums < short).sum()) + 1 if short > 0 else 0]] = True
        return list(torch.split(dead, lengths))

    def _living(self, index: int, alive: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places of a layer's living rows and columns, on the device of `where`."""
        padded = torch.cat([torch.ones(1, dtype=torch.bool), alive])
        first, second = (padded[axis].nonzero()[:, 0] for axis in self._axes[index])
        return first.to(where.device), second.to(where.device)

    def _ranked(self, vector: Tensor) -> Iterator[tuple[list[int], int]]:
        """Yield the places of every family, the largest first, and how many of them must stay."""
        sizes = vector.tolist()
        for places, kept in self._families:
            ranked = sorted(places, key=lambda place: (-sizes[place], place))
            yield ranked, fewest([self._labels[place] for place in ranked], kept)

    def _dead(self, alive: Tensor) -> list[int]:
        return [self._labels[place] for place in (~alive).nonzero()[:, 0].tolist()]
