"""Extraction in FMP: the pruned network from the hypernetwork, and the cost that was removed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from thinlens.errors import RunError
from thinlens.methods.channels.filter import (
    check_equivalent,
    named_tensors,
    remove_channels,
    zero_channels,
)
from thinlens.methods.fmp.hypernetwork import Hypernetwork
from thinlens.methods.fmp.selection import Selection
from thinlens.sparsity.channel_cost import ChannelCost
from thinlens.sparsity.channels import CoupledChannels
from thinlens.sparsity.pattern import Pattern

FLOAT64_TOLERANCE = 1e-5
"""Largest difference of the extracted network in float64, relative to the largest output."""


def extract(
    module: Hypernetwork,
    channels: CoupledChannels,
    selection: Selection,
    m: int | None,
    example: Sequence[int],
) -> tuple[nn.Module, dict[str, Pattern]]:
    """Return the network of the remaining channels, with zeros at pruned weights, and the masks.

    It equals the hypernetwork's network with pruned weights 0, which is checked in float64. `m`
    is the group size of N:M layers.
    """
    full = masked_network(module, selection)
    smaller = remove_channels(full, channels, selection.pruned)
    exact = full.double()
    check_equivalent(
        remove_channels(exact, channels, selection.pruned),
        zero_channels(exact, channels, selection.pruned),
        example,
        FLOAT64_TOLERANCE,
    )
    remaining = _remaining_masks(full, channels, selection)
    patterns = {}
    for name, n in selection.n.items():
        mask = remaining[name].to(full.get_parameter(f"{name}.weight").device)
        if not mask.all():
            patterns[name] = Pattern(mask, n, None if n is None else m)
    return smaller, patterns


def masked_network(module: Hypernetwork, selection: Selection) -> nn.Module:
    """Return the generated network of full size, with zeros at pruned weights."""
    full = module.plain()
    for name, mask in selection.masks.items():
        weight = full.get_parameter(f"{name}.weight")
        if not weight.isfinite().all():
            raise RunError(f"the hypernetwork made a weight of layer {name!r} that is not finite")
        weight.data.masked_fill_(~mask.to(weight.device), 0.0)
    return full


def removed_cost(
    model: nn.Module, channels: CoupledChannels, selection: Selection, example: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Return the fractions of both costs that channels and weights removed and that remain, as in
    Table 3: they add up to 1."""
    channel_cost = ChannelCost(model, example, channels)
    pruned = {
        name: int((~x).sum()) for name, x in _remaining_masks(model, channels, selection).items()
    }
    fractions = {}
    for metric, cost in (("macs", channel_cost.macs), ("params", channel_cost.params)):
        whole, remaining = cost(), cost(selection.pruned)
        uses = (
            channel_cost.macs_per_weight
            if metric == "macs"
            else dict.fromkeys(channel_cost.macs_per_weight, 1)
        )
        weights = sum(count * uses[f"{name}.weight"] for name, count in pruned.items())
        fractions[metric] = {
            "channels": (whole - remaining) / whole,
            "weights": weights / whole,
            "left": (remaining - weights) / whole,
        }
    return fractions


def _remaining_masks(
    model: nn.Module, channels: CoupledChannels, selection: Selection
) -> dict[str, Tensor]:
    """Return the masks of the layers in the remaining channels."""
    masks = {f"{name}.weight": mask for name, mask in selection.masks.items()}
    remaining = channels.prune_tensors({**named_tensors(model), **masks}, selection.pruned)
    return {name: remaining[f"{name}.weight"] for name in selection.masks}
