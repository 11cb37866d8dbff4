"""Every count is exact: against brute force, torch's counter and the masks themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from thinlens.errors import UsageError
from thinlens.models import MODELS, create
from thinlens.models.gcanet import SharedSmoothing
from thinlens.sparsity.cost import (
    CONVENTIONS,
    cost,
    kept_macs,
    kept_weights,
    layer_costs,
    masked_cost,
    prunable_macs,
)
from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.masking import attach
from thinlens.sparsity.pattern import pattern_from_ranks
from thinlens.sparsity.prunable import find_layers
from thinlens.sparsity.ranks import magnitude_ranks

KINDS = {"conv": nn.Conv2d, "transposed": nn.ConvTranspose2d}


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Conv2d | nn.ConvTranspose2d, tuple[int, ...]]:
    """A small convolution without padding (every tap counts) and an input shape for it."""
    groups = draw(st.integers(1, 3))
    c_in, c_out = (groups * draw(st.integers(2, 9)) for _ in range(2))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    make = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    layer = make(c_in, c_out, kernel, stride=draw(st.integers(1, 2)), groups=groups)
    return layer, (1, c_in, draw(st.integers(3, 6)), draw(st.integers(3, 6)))


@given(layers())
def test_macs_equal_a_brute_force_count(made: tuple[nn.Conv2d, tuple[int, ...]]) -> None:
    module, shape = made
    (layer,) = find_layers(module, shape, keep_dense=[])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1)
        output = module(torch.ones(shape))  # each element is its multiply-adds plus its bias
    assert output.sum() == layer.macs + layer.bias_adds
    assert layer.bias_adds == output.numel()
    assert layer.output_positions == output[0, 0].numel()


@given(layers(), st.integers(2, 12), st.data())
def test_a_table_counts_what_the_masks_keep(
    made: tuple[nn.Conv2d, tuple[int, ...]], m: int, data: st.DataObject
) -> None:
    module, shape = made
    (layer,) = find_layers(module, shape, m=m, policy="pad", keep_dense=[])
    costs = layer_costs(layer)
    n = data.draw(st.integers(0, m))
    kept = pattern_from_ranks(magnitude_ranks(module.weight, module, m), n, m).kept
    assert kept_weights(layer, n) == kept
    assert costs[n] * layer.weights == kept * layer.macs
    assert (len(costs), costs[0], costs[m]) == (m + 1, 0, layer.macs)
    assert sorted(costs) == costs


@pytest.mark.parametrize("name", MODELS)
def test_dense_counts_equal_torchs_flop_counter(name: str) -> None:
    shape = (1, MODELS[name].channels, 20, 17)
    network = create(name)
    found = find_layers(network, shape)
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(network).to("meta").eval()(torch.empty(shape, device="meta"))
    # GCANet's shared kernels are no layer: ClassPruning does not charge them
    shared = sum(
        call.output_shape.numel() * call.module.weight.numel()
        for call in dry_run(network, shape).calls
        if isinstance(call.module, SharedSmoothing)
    )
    assert 2 * (sum(layer.macs for layer in found) + shared) == counter.get_total_flops()
    assert sum(layer.macs for layer in found) == cost(network, shape, found, {}, "fmp").macs


@pytest.mark.parametrize("name", MODELS)
def test_what_a_pattern_saves_is_the_same_in_every_convention(name: str) -> None:
    network, shape = create(name, **MODELS[name].tiny), (1, MODELS[name].channels, 20, 17)
    found = find_layers(network, shape, m=4)
    n = {layer.name: 1 + index % 4 for index, layer in enumerate(found) if layer.prunable}
    saved = prunable_macs(found) - kept_macs(found, n)
    assert saved > 0
    # ClassPruning charges transposed layers by their output, and linear ones not at all
    outputs = sum(
        (layer.weights - kept_weights(layer, n[layer.name])) * layer.output_positions
        for layer in found
        if layer.name in n and layer.kind != "linear"
    )
    for convention in ("sls", "classpruning", "fmp"):
        dense, thin = (cost(network, shape, found, keep, convention) for keep in ({}, n))
        assert dense.macs - thin.macs == (outputs if convention == "classpruning" else saved)
        assert thin.kept_macs == dense.kept_macs - saved == thin.prunable_macs - saved
        assert thin.flops == (2 * thin.macs if convention == "classpruning" else None)


@pytest.mark.parametrize("name", MODELS)
def test_a_mask_costs_the_same_whether_it_is_called_nm_or_not(name: str) -> None:
    model = create(name, **MODELS[name].tiny)
    example = (1, MODELS[name].channels, 24, 24)
    found = find_layers(model, example, m=4, policy="pad")
    n = {layer.name: 2 for layer in found if layer.prunable}
    kept = {layer.name: kept_weights(layer, 2) for layer in found if layer.prunable}
    for convention in CONVENTIONS:
        named = cost(model, example, found, n, convention)
        dense = cost(model, example, found, {}, convention)
        assert masked_cost(dense, found, kept) == named
        assert masked_cost(dense, found, {}) == dense


def test_parameters_count_what_is_stored() -> None:
    network = create("rfdn", **MODELS["rfdn"].tiny)
    found = find_layers(network, (1, 3, 16, 16), m=4)
    patterns = {}
    for layer in found:
        if layer.prunable:
            module = network.get_submodule(layer.name)
            assert isinstance(module, nn.Conv2d)
            patterns[layer.name] = pattern_from_ranks(
                magnitude_ranks(module.weight, module, 4), 3, 4
            )
    dense = sum(p.numel() for p in network.parameters())
    removed = sum(p.mask.numel() - p.kept for p in patterns.values())
    n = dict.fromkeys(patterns, 3)
    assert cost(network, (1, 3, 16, 16), found, n).params == dense - removed
    attach(network, patterns)  # a masked weight counts once, as the tensor it stands for
    assert cost(network, (1, 3, 16, 16), found, n).params == dense - removed


def test_classpruning_charges_transposed_layers_at_their_output() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1), nn.Flatten(1))
    network.append(nn.Linear(3 * 8 * 10, 5))
    found = find_layers(network, (1, 2, 4, 5), keep_dense=[])
    assert found[0].macs == 2 * 3 * 16 * 20
    macs = 2 * 3 * 16 * 80 + 3 * 80
    thin = cost(network, (1, 2, 4, 5), found, {}, "classpruning")
    assert (thin.macs, thin.flops) == (macs, 2 * macs)  # the linear layer is not counted


def test_sls_counts_activation_modules_only() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.LeakyReLU(), nn.Tanh())
    found = find_layers(network, (1, 1, 3, 3))
    assert cost(network, (1, 1, 3, 3), found, {}).macs == 18 + 18 + 18 + 18


def test_wrong_use_is_one_sentence() -> None:
    network = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 3, 1))
    shape = (1, 3, 4, 4)
    found = find_layers(network, shape)
    with pytest.raises(UsageError, match="N = 33"):
        kept_macs(found, {"1": 33})
    with pytest.raises(UsageError, match="'0', which is no prunable layer"):
        cost(network, shape, found, {"0": 8})
    with pytest.raises(UsageError, match="'mine': wanted sls, classpruning or fmp"):
        cost(network, shape, found, {}, "mine")
    with pytest.raises(UsageError, match="'2' is not prunable: it makes the image"):
        layer_costs(found[2])
