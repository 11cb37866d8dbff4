"""Layer sensitivity of large networks, from gradients: the network does not run layer by layer.

Where errors of a layer's outputs are small and independent of each other, the mean squared change
of the network's output is the sum, over the layer's outputs, of their squared error times the
squared derivative of the network's output. The derivatives of all layers come from a few backward
passes of random projections (Hutchinson's estimator), the errors from each layer's own moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thinlens.methods.large_moments import GramCache, moment_sums
from thinlens.methods.least_squares.compensation import NMConstraint, refit
from thinlens.methods.least_squares.sensitivity import halvings
from thinlens.methods.moments import Moments, after_calls, sample
from thinlens.sparsity.layout import PrunableModule, canonical

PROBES = 2
"""Random projections of the output for every image."""

PROBED_IMAGES = 4
"""Images of which the output's derivatives are taken."""

PROBED_SIDE = 48
"""Height and width, at most, of these images, where the network takes such."""

ERROR_POSITIONS = 5_000
"""Output positions, at most, on which the error of a pruned layer is measured."""

ERROR_OUTPUTS = 8
"""Outputs of a layer, about, whose weights are pruned to measure it."""


@torch.no_grad()
def gradient_sensitivities(
    network: nn.Module,
    images: Tensor,
    m: Mapping[str, int],
    ridge: float,
    seed: int,
    after_layer: Callable[[], None],
) -> dict[str, dict[int, float]]:
    """Return, by layer name and N, an estimate of the mean squared change of the output.

    `m` is the group size by layer name; N is M, M / 2, M / 4, ... and 1. Weights are those of
    largest magnitude, refitted with `ridge`. `network` is in evaluation mode and is not changed.
    """
    derivatives = squared_derivatives(network, images, list(m), seed)
    losses = {name: dict.fromkeys([size, *halvings(size)], 0.0) for name, size in m.items()}
    calls = dict.fromkeys(m, 0)
    cache = GramCache()

    def measure(name: str, layer: PrunableModule, x: Tensor, output: Tensor) -> None:
        sums = moment_sums(layer, cache)
        sums.add(x, sample(layer, output, ERROR_POSITIONS, seed))
        moments, call = sums.moments().single(), calls[name]
        calls[name] += 1
        factors = derivatives[name][call].to(moments.xx)
        for n in halvings(m[name]):
            losses[name][n] += _error(layer, moments, factors, (n, m[name]), ridge)
        if call == 0:
            after_layer()

    with after_calls(network, m, measure):
        network(images)
    return losses


def _error(
    layer: PrunableModule,
    moments: Moments,
    factors: Tensor,
    n_of_m: tuple[int, int],
    ridge: float,
) -> float:
    """Return the sum of squared output errors times `factors` [c_out], from some outputs."""
    rows = canonical(layer.weight.detach(), layer)
    groups = len(moments.xx)
    weight = rows.reshape(groups, -1, rows[0].numel()).to(moments.xx)
    stride = max(1, weight.shape[1] // ERROR_OUTPUTS)
    outputs = torch.arange(0, weight.shape[1], stride)
    some = moments.of_outputs(outputs)
    mask = NMConstraint(*n_of_m, rows.shape[-1]).largest(weight[:, outputs].abs())
    errors = some.error(refit(some, weight[:, outputs], mask, ridge)).clamp_min(0)
    weighted = errors * factors.reshape(groups, -1)[:, outputs]
    return float(weighted.sum()) * weight.shape[1] / len(outputs)


def squared_derivatives(
    network: nn.Module, images: Tensor, names: list[str], seed: int
) -> dict[str, list[Tensor]]:
    """Return, by layer name and call, the squared derivatives of the output by the layer's.

    One value an output channel, `[c_out]`: summed over positions, averaged over the output's
    entries and over images; 0 where the output does not depend on the call.
    """
    generator = torch.Generator().manual_seed(seed)
    frozen = [p for p in network.parameters() if p.requires_grad]
    sums: dict[str, list[Tensor]] = {name: [] for name in names}
    count = min(PROBED_IMAGES, len(images))
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        for index in range(count):
            for name, calls in _one_image(network, images[index : index + 1], names, generator):
                known = sums[name]
                for call, value in enumerate(calls):
                    if call < len(known):
                        known[call] += value / count
                    else:
                        known.append(value / count)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return sums


def _one_image(
    network: nn.Module, image: Tensor, names: list[str], generator: torch.Generator
) -> list[tuple[str, list[Tensor]]]:
    """Return the squared derivatives of one image, by layer and call, averaged over probes."""
    squares: dict[str, list[Tensor]] = {name: [] for name in names}

    def watch(name: str, layer: PrunableModule, x: Tensor, output: Tensor) -> None:
        axes = [axis for axis in range(output.ndim) if axis != _channel_axis(layer, output)]
        call = len(squares[name])
        channels = output.shape[_channel_axis(layer, output)]
        squares[name].append(torch.zeros(channels, dtype=torch.float64))

        def add(gradient: Tensor) -> None:
            squares[name][call] += gradient.double().square().sum(axes).cpu() / PROBES

        if output.requires_grad:
            output.register_hook(add)  # type: ignore[no-untyped-call]

    with torch.enable_grad(), after_calls(network, names, watch):
        result = _cropped_run(network, image, squares)
    tensors = [x for x in tree_leaves(result) if isinstance(x, Tensor) and x.requires_grad]
    if tensors:
        output = tensors[-1]
        for probe in range(PROBES):
            draw = torch.randn(output.shape, generator=generator) / output.numel() ** 0.5
            again = probe + 1 < PROBES
            output.backward(draw.to(output), retain_graph=again)  # type: ignore[no-untyped-call]
    return list(squares.items())


def _cropped_run(network: nn.Module, image: Tensor, squares: dict[str, list[Tensor]]) -> Tensor:
    """Run the network on the top left of `image`, or on all of it if it takes no such size."""
    top_left = image[..., :PROBED_SIDE, :PROBED_SIDE]
    if top_left.shape != image.shape:
        try:
            return network(_followed(top_left))  # type: ignore[no-any-return]
        except (RuntimeError, ValueError):
            for calls in squares.values():
                calls.clear()
    return network(_followed(image))  # type: ignore[no-any-return]


def _followed(image: Tensor) -> Tensor:
    """Return a copy whose derivatives are taken, and which the network may change in place."""
    return image.detach().clone().requires_grad_().clone()


def _channel_axis(layer: PrunableModule, output: Tensor) -> int:
    return output.ndim - 1 if isinstance(layer, nn.Linear) else 1
