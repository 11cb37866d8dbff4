"""What does a network lose where one layer alone keeps N of every M weights?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from thinlens.sparsity.allocation import Tables, group_sizes

Thin = Callable[[nn.Module, str, int], None]
"""Given a network, the name of a layer and N, prunes that layer in place."""


@torch.no_grad()
def sensitivities(
    model: nn.Module, images: Tensor, tables: Tables, thin: Thin
) -> dict[str, dict[int, float]]:
    """Return, by layer name and N, the mean squared change of the network's answers to `images`.

    N is M, M / 2, M / 4, ... and 1, which loses the most. `model` is never changed.
    """
    network = copy.deepcopy(model).eval()
    answers = network(images)
    found: dict[str, dict[int, float]] = {}
    for name, m in group_sizes(tables).items():
        layer = network.get_submodule(name)
        kept = copy.deepcopy(layer.state_dict())
        found[name] = {m: 0.0}
        for n in halvings(m):
            thin(network, name, n)
            found[name][n] = float((network(images) - answers).square().mean())
            layer.load_state_dict(kept)
    return found


def halvings(m: int) -> list[int]:
    """Return M / 2, M / 4, ... 1, rounded down."""
    return [m >> power for power in range(1, m.bit_length())]


def gains(losses: Mapping[int, float]) -> list[float]:
    """Return what unit 1..M of a layer brings, given its loss at M and at some N below.

    Gains fall from unit to unit, so that a greedy choice is best: between the measured N the loss
    is taken for the largest convex function of N below it.
    """
    points = sorted((n, max(0.0, loss)) for n, loss in losses.items())
    hull: list[tuple[int, float]] = []
    for n, loss in points:
        while len(hull) > 1 and _slope(hull[-2], (n, loss)) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append((n, loss))
    units = [0.0] * max(losses)
    for left, right in pairwise(hull):
        for unit in range(left[0], right[0]):
            units[unit] = max(0.0, -_slope(left, right))
    units[: hull[0][0]] = [max(units, default=0.0)] * hull[0][0]
    return units


def _slope(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])
