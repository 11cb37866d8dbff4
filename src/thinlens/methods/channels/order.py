"""In which order do the channels of a network leave it?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def leaving_order(
    model: nn.Module, channels: Channels, least: int, scores: Mapping[int, float] | None = None
) -> list[Leaver]:
    """Sort the labels that may leave: all layers get narrower alike, the least `scores` first
    (by default those of the smallest filters).

    Every layer keeps `least` channels, or all if it has fewer. Labels compete within a family:
    those that lie on one layer's outputs, or on outputs that are tied to these.
    """
    scores = magnitudes(model, channels) if scores is None else scores
    leavers = []
    for family in families(channels):
        ranked = sorted(family, key=lambda label: (-scores[label], label))
        staying = fewest(ranked, limits(family, channels, least))
        size = len(ranked)
        leavers += [
            Leaver(Fraction(size - place, size), family[0], ranked[place])
            for place in range(staying, size)
        ]
    return sorted(leavers)


def magnitudes(model: nn.Module, channels: Channels, order: int = 1) -> dict[int, float]:
    """Sum the norms of all filters that make a label's channels (1: of absolute weights)."""
    weights = dict(model.named_parameters())
    scores: dict[int, float] = {}
    for name, axis in channels.producers.items():
        labels = channels.axes[name][axis]
        assert labels is not None  # a producer's axis is always labelled
        filters = weights[name].detach().double().movedim(axis, 0).flatten(1)
        norms = torch.linalg.vector_norm(filters, order, dim=1)
        for label, value in zip(labels.tolist(), norms.tolist(), strict=True):
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


Limit = tuple[tuple[int, ...], int]
"""The labels of a family that lie along one axis, and how many of these entries must stay."""


def limits(family: Iterable[int], channels: Channels, least: int) -> list[Limit]:
    """Say what must stay of a family so that no axis keeps under `least` entries."""
    members = set(family)
    found: dict[Limit, None] = {}
    for axes in channels.axes.values():
        for labels in axes:
            if labels is None:
                continue
            own = tuple(label for label in labels.tolist() if label in members)
            wanted = min(least - (labels.numel() - len(own)), len(own))
            if wanted > 0:
                found[own, wanted] = None
    return list(found)


def fewest(ranked: Sequence[int], limits: Iterable[Limit]) -> int:
    """Return how many of the best labels must stay; `ranked` is their family, the best first."""
    rank = {label: place for place, label in enumerate(ranked)}
    places = (sorted(rank[label] for label in own)[wanted - 1] for own, wanted in limits)
    return max(places, default=-1) + 1


def obstacles(channels: Channels, least: int) -> str:
    """Say what keeps channels from leaving, to end a sentence."""
    mixed = f", and {', '.join(channels.obstacles)} all they see" if channels.obstacles else ""
    return f" (every layer keeps {least} channels{mixed})"


def _living(labels: Tensor | None) -> Tensor:
    assert labels is not None  # a producer's axis is always labelled
    alive: Tensor = torch.unique(labels[labels != 0])
    return alive
