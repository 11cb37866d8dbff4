"""Cost of a network in multiply-adds, FLOPs and parameters, dense or pruned.

Every count is an exact integer. The papers count differently (as the numbers in their tables
show), so a total is always in a named convention; what pruning can remove, the weight
multiply-adds of prunable layers, is the same in all but ClassPruning's, which counts transposed
layers at their output's resolution and linear ones not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, get_args

from torch import nn
from torch.nn.utils import parametrize

from thinlens.errors import UsageError, check_choice
from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.products import MatrixProduct
from thinlens.sparsity.prunable import Layer

Convention = Literal["sls", "classpruning", "fmp"]
"""sls: weights, biases and one per output of every ReLU or LeakyReLU module, as ptflops counts.
classpruning: 2 FLOPs per multiply-add of convolutions and per bias, transposed ones counted at
their output's resolution, nothing else. fmp: weights only. All but classpruning count the matrix
products of attention in networks that are not in `MODELS`."""

CONVENTIONS: tuple[str, ...] = get_args(Convention)


@dataclass(frozen=True)
class Cost:
    """Cost of one image, and of storing the network."""

    convention: str
    macs: int
    """All multiply-adds; in pruned layers only those of kept weights."""
    flops: int | None
    """FLOPs under classpruning, else None."""
    params: int
    """Kept weights of pruned layers, dense weights, biases and affine norms."""
    prunable_macs: int
    """Weight multiply-adds of prunable layers, dense: the base of an N:M budget."""
    kept_macs: int
    """Weight multiply-adds of prunable layers that the patterns keep."""


def layer_costs(layer: Layer) -> list[int]:
    """Return the multiply-adds of a prunable layer at N = 0..M."""
    return [kept_weights(layer, n) * _uses(layer) for n in range(_group_size(layer) + 1)]


def kept_weights(layer: Layer, n: int) -> int:
    """Count the weights that N:M keeps: a last short group of m' keeps min(N, m')."""
    m = _group_size(layer)
    if not 0 <= n <= m:
        raise UsageError(f"N = {n} of layer {layer.name!r}: wanted 0 to M = {m}")
    whole, short = divmod(layer.in_channels_per_group, m)
    rows = layer.weights // layer.in_channels_per_group
    return rows * (whole * n + min(n, short))


def prunable_macs(layers: Iterable[Layer]) -> int:
    """Sum the dense weight multiply-adds of the prunable layers."""
    return sum(layer.macs for layer in layers if layer.prunable)


def kept_macs(layers: Sequence[Layer], n: Mapping[str, int]) -> int:
    """Sum the multiply-adds of the prunable layers at N = `n`; a layer without an N is dense."""
    return sum(
        kept_weights(layer, kept) * _uses(layer) for layer, kept in _prunable_with(layers, n)
    )


def cost(
    model: nn.Module,
    example: Sequence[int],
    layers: Sequence[Layer],
    n: Mapping[str, int],
    convention: str = "sls",
    products: Iterable[MatrixProduct] = (),
) -> Cost:
    """Count the cost of `model` on `example` with N = `n` in its pruned layers.

    `layers` are those of `find_layers` on the same example, `products` those of `find_products`.

    >>> from thinlens.sparsity.prunable import find_layers
    >>> model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 3, 3))
    >>> example = (1, 3, 16, 16)
    >>> total = cost(model, example, find_layers(model, example), {"1": 4}, "fmp")
    >>> total.prunable_macs, total.kept_macs
    (1327104, 165888)
    """
    check_choice("convention", convention, CONVENTIONS)
    dense, kept = prunable_macs(layers), kept_macs(layers, n)
    macs = sum(layer.macs for layer in layers) - dense + kept
    macs += sum(product.macs for product in products)
    if convention == "sls":
        macs += sum(layer.bias_adds for layer in layers) + _activations(model, example)
    if convention == "classpruning":
        convolutions = [layer for layer in layers if layer.kind != "linear"]
        macs = sum(_at_output(layer, n) + layer.bias_adds for layer in convolutions)
    removed = sum(layer.weights - kept_weights(layer, k) for layer, k in _prunable_with(layers, n))
    return Cost(
        convention=convention,
        macs=macs,
        flops=2 * macs if convention == "classpruning" else None,
        params=_parameters(model) - removed,
        prunable_macs=dense,
        kept_macs=kept,
    )


def masked_cost(cost: Cost, layers: Iterable[Layer], kept: Mapping[str, int]) -> Cost:
    """Subtract from a cost what masks without N:M remove; `kept` counts kept weights by layer.

    `cost` is that of the network with these layers dense.
    """
    for layer in layers:
        removed = layer.weights - kept.get(layer.name, layer.weights)
        macs = removed * _uses(layer)
        if cost.convention == "classpruning":
            counted = 0 if layer.kind == "linear" else removed * layer.output_positions
        else:
            counted = macs
        cost = replace(
            cost,
            macs=cost.macs - counted,
            flops=None if cost.flops is None else cost.flops - 2 * counted,
            params=cost.params - removed,
            kept_macs=cost.kept_macs - (macs if layer.prunable else 0),
        )
    return cost


def _uses(layer: Layer) -> int:
    """Return the number of multiply-adds of one weight."""
    return layer.macs // layer.weights


def _at_output(layer: Layer, n: Mapping[str, int]) -> int:
    """Count a layer's multiply-adds as if every weight were used at every output position."""
    kept = kept_weights(layer, n[layer.name]) if layer.name in n else layer.weights
    return kept * layer.output_positions


def _prunable_with(layers: Iterable[Layer], n: Mapping[str, int]) -> list[tuple[Layer, int]]:
    prunable = {layer.name: layer for layer in layers if layer.prunable}
    for name in n:
        if name not in prunable:
            raise UsageError(f"N is set for {name!r}, which is no prunable layer")
    return [(layer, n.get(name, _group_size(layer))) for name, layer in prunable.items()]


def _group_size(layer: Layer) -> int:
    if layer.m is None:
        raise UsageError(f"layer {layer.name!r} is not prunable: {layer.reason}")
    return layer.m


def _activations(model: nn.Module, example: Sequence[int]) -> int:
    """Count the outputs of ReLU and LeakyReLU modules; not of functional ones (as ptflops)."""
    elements = sum(
        prod(call.output_shape)
        for call in dry_run(model, example).calls
        if isinstance(call.module, nn.ReLU | nn.LeakyReLU)
    )
    return elements // example[0]


def _parameters(model: nn.Module) -> int:
    """Count parameters; a parametrized one counts as the tensor it computes."""
    plain = {
        name: p.numel() for name, p in model.named_parameters() if "parametrizations" not in name
    }
    parametrized = 0
    for module in model.modules():
        if parametrize.is_parametrized(module):
            names = module.parametrizations
            parametrized += sum(getattr(module, name).numel() for name in names)  # type: ignore[union-attr]
    return sum(plain.values()) + parametrized
