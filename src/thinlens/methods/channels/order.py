"""Pruning order of channels: by filter norm of coupled channels, at equal ratios in all layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from thinlens.sparsity.channels import CoupledChannels
from thinlens.sparsity.union_find import UnionFind


@dataclass(frozen=True, order=True)
class PrunableChannel:
    """A channel that can be pruned, in every layer to which it is coupled; sorted by order."""

    pruned_fraction: Fraction
    """The fraction of its coupled group that is pruned once it is."""
    group: int
    """The smallest channel id of its coupled group."""
    channel_id: int


def pruning_order(
    model: nn.Module,
    channels: CoupledChannels,
    min_channels: int,
    scores: Mapping[int, float] | None = None,
) -> list[PrunableChannel]:
    """Sort the prunable channels: equal ratios in all layers, the lowest `scores` first (by
    default the L1 norms of filters).

    Every layer keeps `min_channels` channels, or all if it has fewer. Channels compete within a
    coupled group: the output channels of one layer and of layers that share channels with it.
    """
    scores = filter_norms(model, channels) if scores is None else scores
    order = []
    for group in coupled_groups(channels):
        ranked = sorted(group, key=lambda channel: (-scores[channel], channel))
        kept = min_kept(ranked, keep_limits(group, channels, min_channels))
        size = len(ranked)
        order += [
            PrunableChannel(Fraction(size - rank, size), group[0], ranked[rank])
            for rank in range(kept, size)
        ]
    return sorted(order)


def filter_norms(model: nn.Module, channels: CoupledChannels, order: int = 1) -> dict[int, float]:
    """Return, by channel id, the summed norms (L1 for `order` 1) of the filters that output it."""
    weights = dict(model.named_parameters())
    scores: dict[int, float] = {}
    for name, axis in channels.output_axes.items():
        ids = output_ids(channels, name)
        filters = weights[name].detach().double().movedim(axis, 0).flatten(1)
        norms = torch.linalg.vector_norm(filters, order, dim=1)
        for channel, value in zip(ids.tolist(), norms.tolist(), strict=True):
            scores[channel] = scores.get(channel, 0.0) + value
    return scores


def output_ids(channels: CoupledChannels, name: str) -> Tensor:
    """Return the channel ids of the filters of the weight called `name`."""
    ids = channels.axes[name][channels.output_axes[name]]
    assert ids is not None  # an output axis always has channel ids
    return ids


def coupled_groups(channels: CoupledChannels) -> list[list[int]]:
    """Return the prunable channel ids by coupled group, in the order that layers run."""
    outputs = [_prunable(output_ids(channels, name)) for name in channels.output_axes]
    union_find = UnionFind()
    union_find.add(max((int(ids.max()) for ids in outputs if ids.numel()), default=0))
    for ids in outputs:
        if ids.numel():
            union_find.union(ids, ids[:1])
    groups: dict[int, list[int]] = {}
    for ids in outputs:
        for channel, root in zip(ids.tolist(), union_find.find(ids).tolist(), strict=True):
            groups.setdefault(root, []).append(channel)
    return [sorted(set(group)) for group in groups.values()]


KeepLimit = tuple[tuple[int, ...], int]
"""The channel ids of a coupled group along one axis, and the least number of them to keep."""


def keep_limits(
    group: Iterable[int], channels: CoupledChannels, min_channels: int
) -> list[KeepLimit]:
    """Return the limits within a group so that every axis keeps `min_channels` entries."""
    members = set(group)
    limits: dict[KeepLimit, None] = {}
    for axes in channels.axes.values():
        for ids in axes:
            if ids is None:
                continue
            entries = tuple(channel for channel in ids.tolist() if channel in members)
            count = min(min_channels - (ids.numel() - len(entries)), len(entries))
            if count > 0:
                limits[entries, count] = None
    return list(limits)


def min_kept(ranked: Sequence[int], limits: Iterable[KeepLimit]) -> int:
    """Return the least number of best channels that meets all limits; `ranked` is best first."""
    ranks = {channel: rank for rank, channel in enumerate(ranked)}
    last = (sorted(ranks[channel] for channel in entries)[count - 1] for entries, count in limits)
    return max(last, default=-1) + 1


def unprunable_reason(channels: CoupledChannels, min_channels: int) -> str:
    """Return, for the end of an error message, why no more channels can be pruned."""
    operations = ", ".join(repr(name) for name in channels.unprunable_ops)
    blocked = f"; channels feeding {operations} cannot be pruned" if operations else ""
    return f" (at least {min_channels} channels stay per layer{blocked})"


def _prunable(ids: Tensor) -> Tensor:
    prunable: Tensor = torch.unique(ids[ids != 0])
    return prunable
