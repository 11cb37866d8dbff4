"""Layers whose weight is one parameter: they are one layer, which runs once for each of them."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from thinlens.sparsity.layout import PRUNABLE_TYPES, PrunableModule


def tied_layers(module: nn.Module) -> dict[str, str]:
    """Return the first layer of the same weight, by the names of the layers that are not first.

    Layers are tied if they are of one type and have as many groups, so that N:M groups are the
    same. A module that is registered under two names is one layer, and has its first name.

    >>> network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    >>> network[1].weight = network[0].weight
    >>> tied_layers(network)
    {'1': '0'}
    """
    first: dict[object, str] = {}
    tied = {}
    for name, layer in module.named_modules():
        if isinstance(layer, PRUNABLE_TYPES):
            key = (id(stored_weight(layer)), _kind(layer))
            if first.setdefault(key, name) != name:
                tied[name] = first[key]
    return tied


def incompatible_layers(module: nn.Module) -> dict[str, str]:
    """Return a layer of another kind that has the same weight, by the names of such layers.

    >>> network = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3))
    >>> network[1].weight = network[0].weight
    >>> incompatible_layers(network)
    {'0': '1', '1': '0'}
    """
    kinds: dict[int, dict[object, str]] = {}
    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, PRUNABLE_TYPES)]
    for name, layer in layers:
        kind = _kind(layer)
        kinds.setdefault(id(stored_weight(layer)), {}).setdefault(kind, name)
    incompatible = {}
    for name, layer in layers:
        kind = _kind(layer)
        others = kinds[id(stored_weight(layer))]
        for other, first in others.items():
            if other != kind:
                incompatible[name] = first
    return incompatible


def layers_of_weight(module: nn.Module, name: str) -> list[PrunableModule]:
    """Return the layer called `name`, and all others whose weight is the same parameter."""
    layer = module.get_submodule(name)
    assert isinstance(layer, PRUNABLE_TYPES)
    weight = stored_weight(layer)
    others = [m for m in module.modules() if isinstance(m, PRUNABLE_TYPES) and m is not layer]
    return [layer, *(other for other in others if stored_weight(other) is weight)]


def stored_weight(layer: PrunableModule) -> object:
    """Return the parameter that holds the weight, also where a parametrization changes it."""
    if parametrize.is_parametrized(layer, "weight"):
        computed = layer.parametrizations["weight"]  # type: ignore[index]
        return getattr(computed, "original", computed)  # weight_norm has two originals
    return layer.weight


def _kind(layer: PrunableModule) -> tuple[type, int]:
    """Return what determines N:M groups: a parametrized layer has a class of its own."""
    kind = next(kind for kind in PRUNABLE_TYPES if isinstance(layer, kind))
    return kind, 1 if isinstance(layer, nn.Linear) else layer.groups
