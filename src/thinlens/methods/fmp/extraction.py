"""How does the small network come out of a hypernetwork, and what has left? (FMP)"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from thinlens.errors import RunError
from thinlens.methods.channels.filter import check_same, masked, tensors_of, without
from thinlens.methods.fmp.hypernetwork import Hypernetwork
from thinlens.methods.fmp.selection import Landing
from thinlens.sparsity.channel_cost import ChannelCost
from thinlens.sparsity.channels import Channels
from thinlens.sparsity.pattern import Pattern

TOLERANCE = 1e-5
"""By how much, in parts of the largest output, the extracted network may differ in float64."""


def extracted(
    module: Hypernetwork,
    channels: Channels,
    landing: Landing,
    m: int | None,
    example: Sequence[int],
) -> tuple[nn.Module, dict[str, Pattern]]:
    """Return the small network of the living channels, with zeros at dead weights, and the masks.

    It equals the hypernetwork's network in which the dead are 0; that is computed, in float64.
    `m` is the group size of the layers that are N:M.
    """
    full = blanked(module, landing)
    thin = without(full, channels, landing.dead)
    exact = full.double()
    check_same(
        without(exact, channels, landing.dead),
        masked(exact, channels, landing.dead),
        example,
        TOLERANCE,
    )
    left = _living(full, channels, landing)
    patterns = {}
    for name, n in landing.n.items():
        mask = left[name].to(full.get_parameter(f"{name}.weight").device)
        if not mask.all():
            patterns[name] = Pattern(mask, n, None if n is None else m)
    return thin, patterns


def blanked(module: Hypernetwork, landing: Landing) -> nn.Module:
    """Return the network of full size that the hypernetwork makes, with zeros at dead weights."""
    full = module.plain()
    for name, mask in landing.masks.items():
        weight = full.get_parameter(f"{name}.weight")
        if not weight.isfinite().all():
            raise RunError(f"the hypernetwork made a weight of layer {name!r} that is not finite")
        weight.data.masked_fill_(~mask.to(weight.device), 0.0)
    return full


def removed_parts(
    model: nn.Module, channels: Channels, landing: Landing, example: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Return what channels and weights took and what is left, in both metrics, as Table 3 has it:
    the three make 1."""
    prices = ChannelCost(model, example, channels)
    dead = {name: int((~x).sum()) for name, x in _living(model, channels, landing).items()}
    parts = {}
    for metric, price in (("macs", prices.macs), ("params", prices.params)):
        whole, left = price(), price(landing.dead)
        uses = prices.uses if metric == "macs" else dict.fromkeys(prices.uses, 1)
        weights = sum(count * uses[f"{name}.weight"] for name, count in dead.items())
        parts[metric] = {
            "channels": (whole - left) / whole,
            "weights": weights / whole,
            "left": (left - weights) / whole,
        }
    return parts


def _living(model: nn.Module, channels: Channels, landing: Landing) -> dict[str, Tensor]:
    """Return the masks of the layers as the living channels have them."""
    masks = {f"{name}.weight": mask for name, mask in landing.masks.items()}
    cut = channels.cut({**tensors_of(model), **masks}, landing.dead)
    return {name: cut[f"{name}.weight"] for name in landing.masks}
