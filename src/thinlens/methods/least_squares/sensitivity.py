"""Layer sensitivity: the output error of a network in which one layer alone is pruned to N:M.

Until that layer is called a run does what the dense one did, so layers with the same input return
what is recorded of that one: about half of the work is saved, and the bits are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thinlens.models.copying import copy_network
from thinlens.sparsity.allocation import CostTables, group_sizes
from thinlens.sparsity.layout import PRUNABLE_TYPES

MOST_RECORDED_BYTES = 1 << 30
"""Of the inputs and outputs of the dense network's layers; later ones are computed anew."""

LayerForward = Callable[..., Any]
"""A layer's forward function."""

PruneLayer = Callable[[nn.Module, str, int], None]
"""Prunes one layer of a network in place: called with the network, the layer's name and N."""


@torch.no_grad()
def sensitivities(
    model: nn.Module,
    images: Tensor,
    tables: CostTables,
    prune_layer: PruneLayer,
    after_layer: Callable[[], None] = lambda: None,
) -> dict[str, dict[int, float]]:
    """Return, by layer name and N, the mean squared change of the network's output on `images`.

    N is M, M / 2, M / 4, ... and 1, whose error is largest. `model` is never changed.
    """
    network = copy_network(model).eval()
    record = DenseRecord(network)
    with record.recording():
        reference = network(images)
    errors: dict[str, dict[int, float]] = {}
    for name, m in group_sizes(tables).items():
        layer = network.get_submodule(name)
        state = copy.deepcopy(layer.state_dict())
        errors[name] = {m: 0.0}
        for n in halvings(m):
            prune_layer(network, name, n)
            with record.replaying(layer):
                output = network(images)
            errors[name][n] = float((output - reference).square().mean())
            layer.load_state_dict(state)
        after_layer()
    return errors


class DenseRecord:
    """Inputs and outputs of a network's convolutions and linear layers in one run, call by call.

    >>> network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)).eval()
    >>> record, image = DenseRecord(network), torch.rand(1, 1, 2, 2)
    >>> with record.recording():
    ...     expected = network(image)
    >>> with record.replaying(network[1]):  # the first layer is not computed
    ...     torch.equal(network(image), expected)
    True
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [x for x in network.modules() if isinstance(x, PRUNABLE_TYPES)]
        self._calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the calls of the block, up to `MOST_RECORDED_BYTES`."""
        free, is_complete = MOST_RECORDED_BYTES, True

        def forward(layer: nn.Module, compute: LayerForward, *inputs: Any, **options: Any) -> Any:
            nonlocal free, is_complete
            output = compute(*inputs, **options)
            if len(inputs) == 1 and not options:
                free -= sum(x.numel() * x.element_size() for x in (*inputs, output))
                is_complete &= free >= 0
            else:
                is_complete = False
            if is_complete:  # copies: tensors may be changed in place afterwards
                self._calls.append((layer, inputs[0].clone(), output.clone()))
            return output

        with self._running(forward):
            yield

    @contextmanager
    def replaying(self, changed: nn.Module) -> Iterator[None]:
        """Let layers return what is recorded, until one has another input or weight.

        `changed` is the layer whose parameters are others than recorded.
        """
        calls, is_same = iter(self._calls), True
        other = {id(parameter) for parameter in changed.parameters()}

        def forward(layer: nn.Module, compute: LayerForward, *inputs: Any, **options: Any) -> Any:
            nonlocal is_same
            recorded = next(calls, None) if is_same else None
            is_same = (
                recorded is not None
                and recorded[0] is layer
                and other.isdisjoint(map(id, layer.parameters()))
                and _is_equal(recorded[1], inputs[0])
            )
            return recorded[2].clone() if recorded and is_same else compute(*inputs, **options)

        with self._running(forward):
            yield

    @contextmanager
    def _running(self, forward: LayerForward) -> Iterator[None]:
        """Call `forward(layer, its forward, ...)` in place of each layer's forward."""
        try:
            for layer in self._layers:
                layer.forward = partial(forward, layer, layer.forward)  # type: ignore[method-assign]
            yield
        finally:
            for layer in self._layers:
                layer.__dict__.pop("forward", None)


def halvings(m: int) -> list[int]:
    """Return M / 2, M / 4, ... 1, rounded down."""
    return [m >> power for power in range(1, m.bit_length())]


def gains(losses: Mapping[int, float]) -> list[float]:
    """Return the error that unit 1..M of a layer removes, from the loss at M and at some lower N.

    Gains decrease from unit to unit, so that greedy allocation is optimal: between the measured N
    the loss is interpolated by its lower convex hull.
    """
    points = sorted((n, max(0.0, loss)) for n, loss in losses.items())
    hull: list[tuple[int, float]] = []
    for n, loss in points:
        while len(hull) > 1 and _slope(hull[-2], (n, loss)) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append((n, loss))
    units = [0.0] * max(losses)
    for lower, upper in pairwise(hull):
        for unit in range(lower[0], upper[0]):
            units[unit] = max(0.0, -_slope(lower, upper))
    units[: hull[0][0]] = [max(units, default=0.0)] * hull[0][0]
    return units


def _is_equal(one: Tensor, other: Tensor) -> bool:
    if one.dtype == other.dtype == torch.float32 and one.device.type == other.device.type == "cpu":
        return np.array_equal(one.detach().numpy(), other.detach().numpy())  # in a seventh the time
    return torch.equal(one, other)


def _slope(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])
