"""Layer sensitivity: the output error of a network in which one layer alone is pruned to N:M."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from thinlens.models.copying import copy_network
from thinlens.sparsity.allocation import CostTables, group_sizes

PruneLayer = Callable[[nn.Module, str, int], None]
"""Prunes one layer of a network in place: called with the network, the layer's name and N."""


@torch.no_grad()
def sensitivities(
    model: nn.Module,
    images: Tensor,
    tables: CostTables,
    prune_layer: PruneLayer,
    after_layer: Callable[[], None] = lambda: None,
) -> dict[str, dict[int, float]]:
    """Return, by layer name and N, the mean squared change of the network's output on `images`.

    N is M, M / 2, M / 4, ... and 1, whose error is largest. `model` is never changed.
    """
    network = copy_network(model).eval()
    reference = network(images)
    errors: dict[str, dict[int, float]] = {}
    for name, m in group_sizes(tables).items():
        layer = network.get_submodule(name)
        state = copy.deepcopy(layer.state_dict())
        errors[name] = {m: 0.0}
        for n in halvings(m):
            prune_layer(network, name, n)
            errors[name][n] = float((network(images) - reference).square().mean())
            layer.load_state_dict(state)
        after_layer()
    return errors


def halvings(m: int) -> list[int]:
    """Return M / 2, M / 4, ... 1, rounded down."""
    return [m >> power for power in range(1, m.bit_length())]


def gains(losses: Mapping[int, float]) -> list[float]:
    """Return the error that unit 1..M of a layer removes, from the loss at M and at some lower N.

    Gains decrease from unit to unit, so that greedy allocation is optimal: between the measured N
    the loss is interpolated by its lower convex hull.
    """
    points = sorted((n, max(0.0, loss)) for n, loss in losses.items())
    hull: list[tuple[int, float]] = []
    for n, loss in points:
        while len(hull) > 1 and _slope(hull[-2], (n, loss)) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append((n, loss))
    units = [0.0] * max(losses)
    for lower, upper in pairwise(hull):
        for unit in range(lower[0], upper[0]):
            units[unit] = max(0.0, -_slope(lower, upper))
    units[: hull[0][0]] = [max(units, default=0.0)] * hull[0][0]
    return units


def _slope(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])
