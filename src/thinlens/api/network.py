"""What the API takes for a network, and its parts."""

from __future__ import annotations

from torch import nn

from thinlens.checkpoints.format import Checkpoint
from thinlens.models import registry_name
from thinlens.models.output import OutputName, keep_output
from thinlens.sparsity.pattern import Pattern, Pruned

AnyNetwork = nn.Module | Pruned | Checkpoint
"""A plain module, what `prune` returned or what `load` read."""


def one_output(module: nn.Module, output: OutputName | None = None) -> nn.Module:
    """Return a network that returns one tensor: of several the last, or the one called `output`.

    A network of `MODELS` returns one anyway.
    """
    plain = output is None and registry_name(module) is not None
    return module if plain else keep_output(module, output)


def network_parts(network: AnyNetwork) -> tuple[nn.Module, dict[str, Pattern]]:
    """Return a network's module and the patterns of its pruned layers."""
    if isinstance(network, nn.Module):
        return network, {}
    return network.module, network.patterns
