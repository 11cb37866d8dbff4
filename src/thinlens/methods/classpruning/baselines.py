"""The dynamic networks that ClassPruning is compared with in its Table 2.

Each is trained by the same stages, with the same classifier and the same costs. What the paper
does not print is ours: members are the smallest that cost at least their part of the network (less
a hundredth). This gives its 1.25 M and 1.27 M parameters.
"""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from thinlens.dynamic.branches import Branches
from thinlens.dynamic.subnets import RoutedSubnetsConfig, RoutedSubnets, copy_shared
from thinlens.errors import UsageError
from thinlens.methods.classpruning.routed_training import Dynamic, fresh
from thinlens.models import MODELS
from thinlens.sparsity.cost import cost
from thinlens.sparsity.prunable import find_layers

TOLERANCE = 0.01
"""By how much of the network's cost a member may miss its part."""

DEPTHS = ("depth", "blocks")
"""What networks call the number of their repeated layers."""

FINEST = 64
"""Widths are multiples of this part of the network's, or whole channels where it is narrower."""


@dataclass(frozen=True, kw_only=True)
class Members(Dynamic):
    """Train members of several sizes and a classifier; `branches` are the parts that they cost."""

    SHARED: ClassVar[bool]
    """Whether members use the fullest one's weights."""

    def dynamic(self, model: nn.Module, seed: int) -> RoutedSubnets:
        found = Branches.of(self.branches)
        config = getattr(model, "config", None)
        if config is None:
            raise UsageError(f"{type(model).__name__} has no config: wanted a network of thinlens")
        parts = [Fraction(n, found.m) for n in found.kept[:-1]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fullest = copy.deepcopy(model)
            if self.scratch:
                fresh(fullest)
            changes = [self._change(model, part) for part in parts]
            if any(a == b for a, b in pairwise(changes)):
                raise UsageError(f"branches {found}: this network is too small to be so many")
            thinner = [type(model)(replace(config, **change)) for change in changes]
            if not self.scratch:
                for member in thinner:
                    copy_shared(member, fullest)
            told = RoutedSubnetsConfig(
                channels=self.example[1],
                kept=found.kept,
                m=found.m,
                thinner=tuple(json.dumps(change) for change in changes),
                shared=self.SHARED,
            )
            return RoutedSubnets(told, thinner, fullest)

    @abstractmethod
    def sizes(self, config: Any) -> list[dict[str, int]]:
        """Return what to change in a network's config to make it smaller, rising by cost."""

    def _change(self, model: nn.Module, part: Fraction) -> dict[str, int]:
        """Return the change that makes the smallest member which costs its part."""
        sizes = self.sizes(model.config)
        least = (float(part) - TOLERANCE) * self._flops(model)

        def costs(index: int) -> bool:
            smaller = type(model)(replace(model.config, **sizes[index]))  # type: ignore[type-var]
            return self._flops(smaller) >= least

        with torch.device("meta"):
            chosen = bisect_left(range(len(sizes)), True, key=costs)
        if chosen == len(sizes):
            raise UsageError(f"{type(self).__name__}: no smaller network costs {part} of this one")
        return sizes[chosen]

    def _flops(self, network: nn.Module) -> int:
        layers = find_layers(network, self.example)
        return cost(network, self.example, layers, {}, "classpruning").flops or 1


class Widths(Members):
    """Members are as deep as the network and narrower."""

    def sizes(self, config: Any) -> list[dict[str, int]]:
        entry = next((x for x in MODELS.values() if type(x.config) is type(config)), None)
        fields = entry.widths if entry else ()
        found: dict[tuple[int, ...], Mapping[str, int]] = {}
        for share in range(1, FINEST):
            change = {key: max(1, round(getattr(config, key) * share / FINEST)) for key in fields}
            found.setdefault(tuple(change.values()), change)
        if not fields:
            raise UsageError(f"{type(config).__module__} has no width that can be less")
        return [dict(change) for change in found.values()]


class Depths(Members):
    """Members are as wide as the network and shallower."""

    def sizes(self, config: Any) -> list[dict[str, int]]:
        key = next((key for key in DEPTHS if hasattr(config, key)), None)
        if key is None:
            raise UsageError(f"this network has none of {', '.join(DEPTHS)} that can be less")
        return [{key: depth} for depth in range(_least_depth(config, key), getattr(config, key))]


class MultiWidth(Widths):
    """Several networks of other widths, each with weights of its own."""

    SHARED = False


class MultiDepth(Depths):
    """Several networks of other depths, each with weights of its own."""

    SHARED = False


class ChannelSkip(Widths):
    """The first channels of one network are networks of their own (slimmable networks)."""

    SHARED = True


class LayerSkip(Depths):
    """The first layers of one network and its last are networks of their own.

    BlockDrop chooses layers by a policy; here the sets are fixed and nested, as a DnCNN has no
    residual units to drop.
    """

    SHARED = True


def _least_depth(config: Any, key: str) -> int:
    """Return the least depth that a network's config takes."""
    for depth in range(1, getattr(config, key)):
        try:
            replace(config, **{key: depth})
        except UsageError:
            continue
        return depth
    return int(getattr(config, key))
