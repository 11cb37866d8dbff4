"""What is there to say of a network, as a whole and layer by layer?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from thinlens.sparsity.cost import Cost, kept_weights, masked_cost
from thinlens.sparsity.cost import cost as total_cost
from thinlens.sparsity.pattern import Pattern
from thinlens.sparsity.prunable import Layer, find_layers

BUDGET_BASE = "prunable_macs"
"""What the budget of an N:M method is a part of."""


@dataclass(frozen=True)
class Price:
    """What one input of a known size costs, and what the network stores."""

    total: Cost
    layers: tuple[Layer, ...]
    n: Mapping[str, int]
    """N of the layers that have an N:M pattern."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """The living weights of the layers that have another pattern."""

    @property
    def budget(self) -> float:
        """The part of the prunable multiply-adds that is kept."""
        return self.total.kept_macs / self.total.prunable_macs if self.total.prunable_macs else 1.0

    @property
    def patterned(self) -> list[Layer]:
        """The layers that have an N:M pattern, in the order they run."""
        return [layer for layer in self.layers if layer.name in self.n]

    def part(self, layer: Layer) -> float:
        """Return the part of a layer's weights that its pattern keeps."""
        return kept_weights(layer, self.n[layer.name]) / layer.weights

    def entries(self) -> list[dict[str, Any]]:
        """Return a line a layer, as `thinlens info --json` prints them."""
        return [self._entry(layer) for layer in self.layers]

    def _entry(self, layer: Layer) -> dict[str, Any]:
        n = self.n.get(layer.name)
        uses = layer.macs // layer.weights
        living = self.kept.get(layer.name, layer.weights) if n is None else kept_weights(layer, n)
        return {
            "name": layer.name,
            "in_channels": layer.in_channels,
            "out_channels": layer.out_channels,
            "kernel": list(layer.kernel),
            "n": n,
            "m": None if n is None else layer.m,
            "macs": living * uses,
            "prunable": layer.prunable,
            "why": layer.why,
        }


def price(
    module: nn.Module,
    patterns: Mapping[str, Pattern],
    input_shape: tuple[int, int, int],
    *,
    convention: str = "sls",
    m: int = 32,
) -> Price:
    """Price `module` with its patterns on one input `[C, H, W]`.

    `m` says which layers count as prunable where there are no patterns yet.
    """
    groups = [pattern.m for pattern in patterns.values() if pattern.m is not None]
    example = (1, *input_shape)
    found = find_layers(module, example, m=max(groups, default=m))
    layers = tuple(_with_pattern(layer, patterns) for layer in found)
    n = {name: p.n for name, p in patterns.items() if p.n is not None}
    kept = {name: p.kept for name, p in patterns.items() if p.n is None}
    total = total_cost(module, example, layers, n, convention)
    return Price(masked_cost(total, layers, kept), layers, n, kept)


def _with_pattern(layer: Layer, patterns: Mapping[str, Pattern]) -> Layer:
    """Believe the pattern: a layer that has one is prunable, in groups of the pattern's M."""
    pattern = patterns.get(layer.name)
    return replace(layer, m=pattern.m, why="") if pattern and pattern.m else layer
