"""Importance of weights: magnitude, activation-aware (Wanda) or second-order (OBS) scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from thinlens.errors import check_choice
from thinlens.methods.least_squares.compensation import DAMPING, damped
from thinlens.methods.moments import Moments, collect
from thinlens.sparsity.layout import PrunableModule, canonical, from_canonical
from thinlens.sparsity.masking import prunable_layer

Importance = Literal["magnitude", "activation", "second-order"]
"""What weights are ranked by: abs(w), abs(w) rms(x), or the error of removing the weight."""

IMPORTANCE_POSITIONS = 8192
"""Largest number of output positions of a layer that enter its second moments."""


@torch.no_grad()
def importance_scores(
    network: nn.Module, names: Iterable[str], images: Tensor, kind: Importance
) -> Mapping[str, Tensor]:
    """Score every weight of the named layers, shaped as the weight, on the layers' current inputs.

    activation: abs(w) rms(x). second-order: the error of removing the weight alone while the
    others are adjusted (`w^2 / [H^-1]_ii`; LeCun et al. 1990, Hassibi & Stork 1993). magnitude:
    an empty mapping.
    """
    check_choice("importance", kind, get_args(Importance))
    if kind == "magnitude":
        return {}
    rule = _activation if kind == "activation" else _second_order
    moments_by_name = collect(network, names, images, IMPORTANCE_POSITIONS, seed=0)
    return {
        name: rule(prunable_layer(network, name), dense_weight(network, name), moments)
        for name, moments in moments_by_name.items()
    }


def dense_weight(network: nn.Module, name: str) -> Tensor:
    """Return the weight of a layer before masking."""
    layer = prunable_layer(network, name)
    if parametrize.is_parametrized(layer, "weight"):
        weight: Tensor = layer.parametrizations["weight"].original  # type: ignore[index,union-attr]
        return weight
    return layer.weight


def _activation(layer: PrunableModule, weight: Tensor, moments: Moments) -> Tensor:
    mean_square = moments.xx.diagonal(dim1=-2, dim2=-1) + moments.mean_x.square()
    return weight.abs() * _spread(mean_square.sqrt(), layer, weight)


def _second_order(layer: PrunableModule, weight: Tensor, moments: Moments) -> Tensor:
    gram, _ = damped(moments, DAMPING)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram)).diagonal(dim1=-2, dim2=-1)
    return weight.square() / _spread(inverse, layer, weight)


def _spread(columns: Tensor, layer: PrunableModule, weight: Tensor) -> Tensor:
    """Return, for every weight, the value `[g, p]` of the input column that it multiplies."""
    shape = canonical(weight, layer).shape  # [c_out, kh, kw, c]
    rows = columns[:, None].expand(-1, shape[0] // len(columns), -1).reshape(shape)
    return from_canonical(rows, layer).to(weight)
