"""What does a network cost after pruning, in multiply-adds, FLOPs and parameters?

Every count is an exact integer. The papers count differently (which they say only through the
numbers in their tables), so a total is always in a named convention; the part that pruning can
remove, the weight multiply-adds of prunable layers, is the same in all but ClassPruning's, which
charges transposed layers by their output and linear ones not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from torch import nn
from torch.nn.utils import parametrize

from thinlens.errors import UsageError
from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.prunable import Layer

CONVENTIONS = ("sls", "classpruning", "fmp")
"""sls: weights, biases and one per output of every ReLU or LeakyReLU module, as ptflops counts.
classpruning: 2 FLOPs per multiply-add of convolutions and per bias, transposed ones charged at
their output's resolution, nothing else. fmp: weights only."""


@dataclass(frozen=True)
class Cost:
    """What one image costs, and what the network stores."""

    convention: str
    macs: int
    """All multiply-adds after the pattern; only weights of pruned layers are fewer."""
    flops: int | None
    """FLOPs under classpruning, else None."""
    params: int
    """Kept weights of pruned layers, dense weights, biases and affine norms."""
    prunable_macs: int
    """Weight multiply-adds of prunable layers, dense: the base of an N:M budget."""
    kept_macs: int
    """Those that the pattern keeps."""


def table(layer: Layer) -> list[int]:
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


def pruned_macs(layers: Sequence[Layer], n: Mapping[str, int]) -> int:
    """Sum the multiply-adds of the prunable layers at `n`; one that `n` leaves out is dense."""
    return sum(
        kept_weights(layer, kept) * _uses(layer) for layer, kept in _prunable_with(layers, n)
    )


def cost(
    model: nn.Module,
    example: Sequence[int],
    layers: Sequence[Layer],
    n: Mapping[str, int],
    convention: str = "sls",
) -> Cost:
    """Price `model`, whose `layers` were found on `example`, with N = `n` in its pruned layers."""
    if convention not in CONVENTIONS:
        raise UsageError(f"convention {convention!r}: wanted {', '.join(CONVENTIONS)}")
    dense, kept = prunable_macs(layers), pruned_macs(layers, n)
    macs = sum(layer.macs for layer in layers) - dense + kept
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
    """Take off a cost what masks without N:M remove: `kept` says how many weights live, by layer.

    `cost` is of the network with these layers dense.
    """
    for layer in layers:
        removed = layer.weights - kept.get(layer.name, layer.weights)
        macs = removed * _uses(layer)
        if cost.convention == "classpruning":
            charged = 0 if layer.kind == "linear" else removed * layer.output_positions
        else:
            charged = macs
        cost = replace(
            cost,
            macs=cost.macs - charged,
            flops=None if cost.flops is None else cost.flops - 2 * charged,
            params=cost.params - removed,
            kept_macs=cost.kept_macs - (macs if layer.prunable else 0),
        )
    return cost


def _uses(layer: Layer) -> int:
    """Count the multiply-adds that one weight takes part in."""
    return layer.macs // layer.weights


def _at_output(layer: Layer, n: Mapping[str, int]) -> int:
    """Count a layer's multiply-adds as if every weight were used at every output position."""
    kept = kept_weights(layer, n[layer.name]) if layer.name in n else layer.weights
    return kept * layer.output_positions


def _prunable_with(layers: Iterable[Layer], n: Mapping[str, int]) -> list[tuple[Layer, int]]:
    prunable = {layer.name: layer for layer in layers if layer.prunable}
    for name in n:
        if name not in prunable:
            raise UsageError(f"N is given for {name!r}, which is no prunable layer")
    return [(layer, n.get(name, _group_size(layer))) for name, layer in prunable.items()]


def _group_size(layer: Layer) -> int:
    if layer.m is None:
        raise UsageError(f"layer {layer.name!r} is not prunable: {layer.why}")
    return layer.m


def _activations(model: nn.Module, example: Sequence[int]) -> int:
    """Count the outputs of ReLU and LeakyReLU modules; functional ones are not seen (ptflops)."""
    elements = sum(
        prod(call.output_shape)
        for call in dry_run(model, example).calls
        if isinstance(call.module, nn.ReLU | nn.LeakyReLU)
    )
    return elements // example[0]


def _parameters(model: nn.Module) -> int:
    """Count parameters; a parametrized one counts as the tensor it stands for."""
    plain = {
        name: p.numel() for name, p in model.named_parameters() if "parametrizations" not in name
    }
    worn = 0
    for module in model.modules():
        if parametrize.is_parametrized(module):
            names = module.parametrizations
            worn += sum(getattr(module, name).numel() for name in names)  # type: ignore[union-attr]
    return sum(plain.values()) + worn
