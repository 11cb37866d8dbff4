"""Which of a layer's weights matter, seen on images rather than by size alone?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from thinlens.errors import UsageError
from thinlens.methods.least_squares.compensation import DAMPING, damped
from thinlens.methods.moments import Moments, MomentSums, sample
from thinlens.sparsity.layout import PrunableModule, canonical, from_canonical
from thinlens.sparsity.masking import prunable_layer

SALIENCIES = ("magnitude", "activation", "second-order")

POSITIONS = 8192
"""Output positions of a layer that enter its statistics, at most."""


@torch.no_grad()
def saliencies(
    network: nn.Module, names: Iterable[str], images: Tensor, kind: str
) -> Mapping[str, Tensor]:
    """Score every weight of the named layers, shaped as the weight, on what the layers see now.

    activation: abs(w) rms(x). second-order: what removing the weight alone costs, the others
    answering (`w^2 / [H^-1]_ii`; LeCun et al. 1990, Hassibi & Stork 1993). magnitude: no entry.
    """
    if kind not in SALIENCIES:
        raise UsageError(f"saliency {kind!r}: wanted {', '.join(SALIENCIES)}")
    if kind == "magnitude":
        return {}
    rule = _activation if kind == "activation" else _second_order
    seen = _moments(network, list(names), images)
    return {
        name: rule(prunable_layer(network, name), dense_weight(network, name), moments)
        for name, moments in seen.items()
    }


def dense_weight(network: nn.Module, name: str) -> Tensor:
    """Return a layer's weight, the one beneath if it wears a mask."""
    layer = prunable_layer(network, name)
    if parametrize.is_parametrized(layer, "weight"):
        weight: Tensor = layer.parametrizations["weight"].original  # type: ignore[index,union-attr]
        return weight
    return layer.weight


def _moments(network: nn.Module, names: list[str], images: Tensor) -> dict[str, Moments]:
    """Run `images` through the network in evaluation mode; nothing of it changes."""
    sums = {name: MomentSums(prunable_layer(network, name)) for name in names}

    def hook(name: str) -> Callable[..., None]:
        def note(layer: PrunableModule, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            sums[name].add(inputs[0], sample(layer, output, POSITIONS, seed=0))

        return note

    handles = [prunable_layer(network, n).register_forward_hook(hook(n)) for n in names]
    training = network.training
    try:
        network.eval()(images)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return {name: total.moments() for name, total in sums.items()}


def _activation(layer: PrunableModule, weight: Tensor, moments: Moments) -> Tensor:
    mean_square = moments.xx.diagonal(dim1=-2, dim2=-1) + moments.mean_x.square()
    return weight.abs() * _spread(mean_square.sqrt(), layer, weight)


def _second_order(layer: PrunableModule, weight: Tensor, moments: Moments) -> Tensor:
    gram, _ = damped(moments, DAMPING)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram)).diagonal(dim1=-2, dim2=-1)
    return weight.square() / _spread(inverse, layer, weight)


def _spread(columns: Tensor, layer: PrunableModule, weight: Tensor) -> Tensor:
    """Give every weight the value `[g, p]` of the input column that it multiplies."""
    shape = canonical(weight, layer).shape  # [c_out, kh, kw, c]
    rows = columns[:, None].expand(-1, shape[0] // len(columns), -1).reshape(shape)
    return from_canonical(rows, layer).to(weight)
