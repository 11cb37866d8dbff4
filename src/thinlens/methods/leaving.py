"""In which order do the channels of a network leave it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from thinlens.sparsity.channels import Channels
from thinlens.sparsity.ties import Ties


@dataclass(frozen=True, order=True)
class Leaver:
    """A label whose channels may leave, sorted by when they do."""

    gone: Fraction
    """The part of its family that has left when it has."""
    family: int
    label: int


def leaving_order(model: nn.Module, channels: Channels, least: int) -> list[Leaver]:
    """Sort the labels that may leave: all layers get narrower alike, the smallest filters first.

    Every layer keeps `least` channels, or all if it has fewer. Labels compete within a family:
    those that lie on one layer's outputs, or on outputs that are tied to these.
    """
    scores = magnitudes(model, channels)
    leavers = []
    for family in families(channels):
        ranked = sorted(family, key=lambda label: (-scores[label], label))
        staying = _fewest(ranked, channels, least)
        size = len(ranked)
        leavers += [
            Leaver(Fraction(size - place, size), family[0], ranked[place])
            for place in range(staying, size)
        ]
    return sorted(leavers)


def magnitudes(model: nn.Module, channels: Channels) -> dict[int, float]:
    """Sum the absolute weights of all filters that make a label's channels."""
    weights = dict(model.named_parameters())
    scores: dict[int, float] = {}
    for name, axis in channels.producers.items():
        labels = channels.axes[name][axis]
        assert labels is not None  # a producer's axis is always labelled
        sums = weights[name].detach().abs().double().movedim(axis, 0).flatten(1).sum(1)
        for label, value in zip(labels.tolist(), sums.tolist(), strict=True):
            scores[label] = scores.get(label, 0.0) + value
    return scores


def families(channels: Channels) -> list[list[int]]:
    """Return the labels that may leave, by family, in the order that layers run."""
    made = [_living(channels.axes[name][axis]) for name, axis in channels.producers.items()]
    kin = Ties()
    kin.fresh(max((int(labels.max()) for labels in made if labels.numel()), default=0))
    for labels in made:
        if labels.numel():
            kin.tie(labels, labels[:1])
    found: dict[int, list[int]] = {}
    for labels in made:
        for label, root in zip(labels.tolist(), kin.roots(labels).tolist(), strict=True):
            found.setdefault(root, []).append(label)
    return [sorted(set(family)) for family in found.values()]


def _fewest(ranked: Sequence[int], channels: Channels, least: int) -> int:
    """Return how many of the best labels must stay so that no axis keeps under `least` entries."""
    rank = {label: place for place, label in enumerate(ranked)}
    needed = 0
    for axes in channels.axes.values():
        for labels in axes:
            if labels is None:
                continue
            own = sorted(rank[label] for label in labels.tolist() if label in rank)
            always = labels.numel() - len(own)
            wanted = min(least - always, len(own))
            if wanted > 0:
                needed = max(needed, own[wanted - 1] + 1)
    return needed


def _living(labels: Tensor | None) -> Tensor:
    assert labels is not None  # a producer's axis is always labelled
    alive: Tensor = torch.unique(labels[labels != 0])
    return alive
