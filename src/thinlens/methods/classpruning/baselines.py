"""Dynamic-network baselines of ClassPruning (its Table 2): subnets and a classifier.

Each is trained by the same stages, with the same classifier and the same costs. What the paper
does not print is ours: subnets are the smallest that cost at least their fraction of the network
(less a hundredth). This gives its 1.25 M and 1.27 M parameters.
"""

from __future__ import annotations

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
from thinlens.dynamic.subnets import RoutedSubnets, RoutedSubnetsConfig, copy_shared
from thinlens.errors import UsageError
from thinlens.methods.classpruning.routed_training import RoutedTraining
from thinlens.methods.reset import reset_parameters
from thinlens.models import MODELS
from thinlens.models.copying import copy_network
from thinlens.sparsity.cost import cost
from thinlens.sparsity.prunable import find_layers

COST_TOLERANCE = 0.01
"""Largest shortfall of a subnet's cost, as a fraction of the network's."""

DEPTH_FIELDS = ("depth", "blocks")
"""Config fields with the number of repeated layers."""

WIDTH_STEPS = 64
"""Widths are multiples of 1 / 64 of the network's, or whole channels where it is narrower."""


@dataclass(frozen=True, kw_only=True)
class SubnetMethod(RoutedTraining):
    """Train subnets of several sizes and a classifier; `branches` are their cost fractions."""

    SHARED: ClassVar[bool]
    """Whether subnets share the weights of the largest one."""

    def wrap(self, model: nn.Module, seed: int) -> RoutedSubnets:
        branches = Branches.of(self.branches)
        config = getattr(model, "config", None)
        if config is None:
            raise UsageError(f"{type(model).__name__} has no config: wanted a network of thinlens")
        fractions = [Fraction(n, branches.m) for n in branches.kept[:-1]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            largest = copy_network(model)
            if self.scratch:
                reset_parameters(largest)
            changes = [self._change(model, fraction) for fraction in fractions]
            if any(a == b for a, b in pairwise(changes)):
                raise UsageError(f"branches {branches}: this network is too small to be so many")
            thinner = [type(model)(replace(config, **change)) for change in changes]
            if not self.scratch:
                for subnet in thinner:
                    copy_shared(subnet, largest)
            subnets_config = RoutedSubnetsConfig(
                channels=self.example[1],
                kept=branches.kept,
                m=branches.m,
                thinner=tuple(json.dumps(change) for change in changes),
                shared=self.SHARED,
            )
            return RoutedSubnets(subnets_config, thinner, largest)

    @abstractmethod
    def sizes(self, config: Any) -> list[dict[str, int]]:
        """Return config changes that make a network smaller, in ascending order of cost."""

    def _change(self, model: nn.Module, fraction: Fraction) -> dict[str, int]:
        """Return the change to the smallest subnet that costs at least its fraction."""
        sizes = self.sizes(model.config)
        least = (float(fraction) - COST_TOLERANCE) * self._flops(model)

        def costs(index: int) -> bool:
            smaller = type(model)(replace(model.config, **sizes[index]))  # type: ignore[type-var]
            return self._flops(smaller) >= least

        with torch.device("meta"):
            chosen = bisect_left(range(len(sizes)), True, key=costs)
        if chosen == len(sizes):
            raise UsageError(
                f"{type(self).__name__}: no smaller network costs {fraction} of this one"
            )
        return sizes[chosen]

    def _flops(self, network: nn.Module) -> int:
        layers = find_layers(network, self.example)
        return cost(network, self.example, layers, {}, "classpruning").flops or 1


class WidthSubnets(SubnetMethod):
    """Subnets are as deep as the network and narrower."""

    def sizes(self, config: Any) -> list[dict[str, int]]:
        entry = next((x for x in MODELS.values() if type(x.config) is type(config)), None)
        fields = entry.widths if entry else ()
        changes: dict[tuple[int, ...], Mapping[str, int]] = {}
        for share in range(1, WIDTH_STEPS):
            change = {
                key: max(1, round(getattr(config, key) * share / WIDTH_STEPS)) for key in fields
            }
            changes.setdefault(tuple(change.values()), change)
        if not fields:
            raise UsageError(f"{type(config).__module__} has no width that can be less")
        return [dict(change) for change in changes.values()]


class DepthSubnets(SubnetMethod):
    """Subnets are as wide as the network and shallower."""

    def sizes(self, config: Any) -> list[dict[str, int]]:
        key = next((key for key in DEPTH_FIELDS if hasattr(config, key)), None)
        if key is None:
            raise UsageError(f"this network has none of {', '.join(DEPTH_FIELDS)} that can be less")
        return [{key: depth} for depth in range(_least_depth(config, key), getattr(config, key))]


class MultiWidth(WidthSubnets):
    """Train networks of several widths, with separate weights, and a classifier."""

    NAME: ClassVar[str] = "multi-width"

    SHARED = False


class MultiDepth(DepthSubnets):
    """Train networks of several depths, with separate weights, and a classifier."""

    NAME: ClassVar[str] = "multi-depth"

    SHARED = False


class ChannelSkip(WidthSubnets):
    """Train subnets of the first channels of one network (slimmable networks), and a classifier."""

    NAME: ClassVar[str] = "channel-skip"

    SHARED = True


class LayerSkip(DepthSubnets):
    """Train subnets of the first layers of one network and its last layer, and a classifier.

    BlockDrop chooses layers by a policy; here the sets are fixed and nested, as a DnCNN has no
    residual units to drop.
    """

    NAME: ClassVar[str] = "layer-skip"

    SHARED = True


def _least_depth(config: Any, key: str) -> int:
    """Return the least depth that a network's config accepts."""
    for depth in range(1, getattr(config, key)):
        try:
            replace(config, **{key: depth})
        except UsageError:
            continue
        return depth
    return int(getattr(config, key))
