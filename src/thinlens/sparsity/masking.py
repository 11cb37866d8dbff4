"""Masks as parametrizations of weights: attach them for training, strip them afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from thinlens.errors import UsageError
from thinlens.models.copying import copy_network
from thinlens.sparsity.layout import PRUNABLE_TYPES
from thinlens.sparsity.pattern import Pattern, Patterns
from thinlens.sparsity.tied import layers_of_weight, tied_layers


class FixedMask(nn.Module):
    """Multiply a weight by a mask that training does not change."""

    mask: Tensor

    def __init__(self, pattern: Pattern) -> None:
        super().__init__()
        self.n, self.m = pattern.n, pattern.m
        self.register_buffer("mask", pattern.mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def pattern(self) -> Pattern:
        """The pattern that `forward` applies now."""
        return Pattern(self.mask.clone(), self.n, self.m)


def attach(module: nn.Module, patterns: Patterns) -> None:
    """Parametrize every named layer of `module` by a `FixedMask` on its dense weight."""
    for name, pattern in patterns.items():
        layer = prunable_layer(module, name)
        pattern.check(layer)
        mask_weight(module, name, FixedMask(pattern))


def mask_weight(module: nn.Module, name: str, mask: nn.Module) -> None:
    """Parametrize the weight of a named layer, and of all layers that share it, by `mask`."""
    for layer in layers_of_weight(module, name):
        parametrize.register_parametrization(layer, "weight", mask, unsafe=True)


def strip(module: nn.Module) -> tuple[nn.Module, dict[str, Pattern]]:
    """Return a plain copy of `module` with zeros in its pruned weights, and the patterns.

    Any parametrization with a `pattern()` method is removed. The copy has the state-dict names of
    the dense network, in their order; `module` is not changed.

    >>> layer = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False))
    >>> attach(layer, {"0": Pattern(torch.tensor([[[[True]], [[False]]]]), n=1, m=2)})
    >>> plain, patterns = strip(layer)
    >>> plain[0].weight[0, 1].item(), patterns["0"].n
    (0.0, 1)
    """
    plain = copy_network(module)
    tied = tied_layers(plain)
    patterns = {}
    for name, layer in plain.named_modules():
        if not parametrize.is_parametrized(layer, "weight"):
            continue
        mask = layer.parametrizations["weight"][0]
        if not hasattr(mask, "pattern"):
            continue  # the user's own, such as weight_norm
        pattern = mask.pattern()
        if name not in tied:
            patterns[name] = pattern
        remove_parametrization(layer, "weight")
        with torch.no_grad():
            # 0 times a negative weight is -0.0; the stored zero is +0.0.
            layer.weight.masked_fill_(~pattern.mask, 0.0)
        weight_first(layer)
    return plain, patterns


def remove_parametrization(layer: nn.Module, name: str) -> None:
    """Make the tensor `name` of a copied layer a parameter with its present value."""
    _separate_class(layer)
    parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    value = getattr(layer, name)
    if not isinstance(value, nn.Parameter):  # torch makes a frozen one a buffer
        delattr(layer, name)
        layer.register_parameter(name, nn.Parameter(value, requires_grad=False))


def weight_first(layer: nn.Module) -> None:
    """List the weight first among the parameters of `layer`, as in a newly built one."""
    for other, parameter in list(layer.named_parameters(recurse=False)):
        if other != "weight":
            delattr(layer, other)
            layer.register_parameter(other, parameter)


def _separate_class(layer: nn.Module) -> None:
    """Separate the class of a copied layer from the original's.

    torch adds `weight` as a property to a class that it creates for the layer; a copy shares that
    class, so removing the copy's parametrization would remove `weight` from the original.
    """
    shared = type(layer)
    attributes = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    layer.__class__ = type(shared.__name__, shared.__bases__, attributes)


def prunable_layer(module: nn.Module, name: str) -> nn.Conv2d | nn.ConvTranspose2d | nn.Linear:
    """Return the layer called `name`.

    Raises `UsageError` if it is missing or of a type without N:M groups.
    """
    try:
        layer = module.get_submodule(name)
    except AttributeError as error:
        raise UsageError(f"the network has no layer {name!r}") from error
    if not isinstance(layer, PRUNABLE_TYPES):
        raise UsageError(f"{name} is a {type(layer).__name__}, which has no N:M groups")
    return layer
