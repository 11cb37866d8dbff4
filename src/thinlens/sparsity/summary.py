"""Cost summary of a network: totals and one row a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from thinlens.sparsity.cost import Cost, kept_weights, masked_cost
from thinlens.sparsity.cost import cost as total_cost
from thinlens.sparsity.pattern import Pattern
from thinlens.sparsity.products import MatrixProduct, find_products
from thinlens.sparsity.prunable import Layer, default_policy, find_layers
from thinlens.sparsity.share import PrunableShare, prunable_share

BUDGET_BASE = "prunable_macs"
"""The field of `Cost` that the budget of an N:M method is a fraction of."""


@dataclass(frozen=True)
class CostSummary:
    """Cost of one input of a fixed size, in total and by layer."""

    total: Cost
    layers: tuple[Layer, ...]
    n: Mapping[str, int]
    """N of the layers that have an N:M pattern."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """Kept weights of the layers whose pattern is not N:M."""
    products: tuple[MatrixProduct, ...] = ()
    """Matrix products outside of layers: attention."""

    @property
    def budget(self) -> float:
        """The fraction of the prunable multiply-adds that is kept."""
        return self.total.kept_macs / self.total.prunable_macs if self.total.prunable_macs else 1.0

    @property
    def pruned_layers(self) -> list[Layer]:
        """The layers that have an N:M pattern, in the order they run."""
        return [layer for layer in self.layers if layer.name in self.n]

    def kept_fraction(self, layer: Layer) -> float:
        """Return the fraction of a layer's weights that its N:M pattern keeps."""
        return kept_weights(layer, self.n[layer.name]) / layer.weights

    def entries(self) -> list[dict[str, Any]]:
        """Return one row a layer, as `thinlens info --json` prints them, and then the products."""
        products = [_product_entry(product) for product in self.products]
        return [self._entry(layer) for layer in self.layers] + products

    @property
    def share(self) -> PrunableShare:
        """The part of the dense network's multiply-adds that can be pruned."""
        return prunable_share(self.layers, self.products)

    def _entry(self, layer: Layer) -> dict[str, Any]:
        n = self.n.get(layer.name)
        uses = layer.macs // layer.weights
        kept = self.kept.get(layer.name, layer.weights) if n is None else kept_weights(layer, n)
        return {
            "name": layer.name,
            "in_channels": layer.in_channels,
            "out_channels": layer.out_channels,
            "kernel": list(layer.kernel),
            "n": n,
            "m": None if n is None else layer.m,
            "macs": kept * uses,
            "prunable": layer.prunable,
            "why": layer.reason,
        }


def summarize(
    module: nn.Module,
    patterns: Mapping[str, Pattern],
    input_shape: tuple[int, int, int],
    *,
    convention: str = "sls",
    m: int = 32,
    policy: str | None = None,
) -> CostSummary:
    """Return the cost of `module` with its patterns on one input `[C, H, W]`.

    `m` and `policy` are those by which layers count as prunable where there are no patterns yet;
    the policy is by default that of `default_policy`.

    >>> network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 3, 3))
    >>> summarize(network, {}, (3, 16, 16), convention="fmp").total.macs
    1582848
    """
    groups = [pattern.m for pattern in patterns.values() if pattern.m is not None]
    example = (1, *input_shape)
    policy = policy or ("skip" if patterns else default_policy(module, m))
    listed = find_layers(module, example, m=max(groups, default=m), policy=policy)
    layers = tuple(_with_pattern(layer, patterns) for layer in listed)
    n = {name: p.n for name, p in patterns.items() if p.n is not None}
    kept = {name: p.kept for name, p in patterns.items() if p.n is None}
    products = tuple(find_products(module, example))
    total = total_cost(module, example, layers, n, convention, products)
    return CostSummary(masked_cost(total, layers, kept), layers, n, kept, products)


def _product_entry(product: MatrixProduct) -> dict[str, Any]:
    return {
        "name": f"{product.name} ({'attention' if product.attention else 'function'})".strip(),
        "in_channels": 0,
        "out_channels": 0,
        "kernel": [],
        "n": None,
        "m": None,
        "macs": product.macs,
        "prunable": False,
        "why": product.reason,
    }


def _with_pattern(layer: Layer, patterns: Mapping[str, Pattern]) -> Layer:
    """Mark a layer that has a pattern as prunable, in groups of the pattern's M."""
    pattern = patterns.get(layer.name)
    return replace(layer, m=pattern.m, reason="") if pattern and pattern.m else layer
