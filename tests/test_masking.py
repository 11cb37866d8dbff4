"""Masks are attached and stripped, and stripping changes nothing but the zeros."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from small_layers import bits, layers, masks, zeroed
from thinlens.errors import UsageError
from thinlens.sparsity.layout import PrunableModule
from thinlens.sparsity.masking import attach, strip
from thinlens.sparsity.pattern import Pattern, pattern_from_ranks
from thinlens.sparsity.ranks import magnitude_ranks


def two_convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2))


def half(layer: PrunableModule) -> Pattern:
    return pattern_from_ranks(magnitude_ranks(layer.weight, layer, 4), 2, 4)


@given(layers(), st.data())
def test_strip_gives_the_mask_and_the_masked_weight(
    layer: PrunableModule, data: st.DataObject
) -> None:
    network = nn.Sequential(layer)
    pattern = data.draw(masks(layer))
    dense = layer.weight.detach().clone()
    attach(network, {"0": pattern})
    plain, patterns = strip(network)
    assert torch.equal(patterns["0"].mask, pattern.mask)
    assert (patterns["0"].n, patterns["0"].m) == (pattern.n, pattern.m)
    assert bits(plain[0].weight) == bits(zeroed(dense, pattern.mask))  # +0.0, never -0.0
    assert type(plain[0]) in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def test_all_kept_is_the_dense_network_bit_for_bit() -> None:
    network = two_convolutions()
    image = torch.randn(1, 4, 9, 9)
    dense, state = network(image), {k: v.clone() for k, v in network.state_dict().items()}
    alive = torch.ones_like(network[0].weight, dtype=torch.bool)
    attach(network, {"0": Pattern(alive, 4, 4)})
    plain, _ = strip(network)
    assert bits(network(image)) == bits(dense) == bits(plain(image))
    assert all(bits(plain.state_dict()[name]) == bits(state[name]) for name in state)


def test_strip_does_not_change_its_network_and_restores_plain_names() -> None:
    network = two_convolutions()
    names, dense = list(network.state_dict()), network[0].weight.detach().clone()
    attach(network, {"0": half(network[0]), "2": half(network[2])})
    worn = network.state_dict()
    plain, patterns = strip(network)
    assert list(plain.state_dict()) == names
    assert not any(parametrize.is_parametrized(part) for part in plain.modules())
    assert list(patterns) == ["0", "2"]
    assert parametrize.is_parametrized(network[0], "weight")
    assert torch.equal(network[0].parametrizations["weight"].original, dense)
    assert all(bits(network.state_dict()[name]) == bits(worn[name]) for name in worn)
    image = torch.randn(1, 4, 9, 9)
    assert torch.equal(plain(image), network(image))
    with torch.no_grad():
        plain[0].weight.fill_(7)
        patterns["0"].mask.fill_(True)
    assert torch.equal(network[0].parametrizations["weight"].original, dense)
    assert int(network[0].parametrizations["weight"][0].mask.sum()) == dense.numel() // 2


def test_only_kept_weights_are_trained() -> None:
    network = two_convolutions()
    pattern = half(network[0])
    attach(network, {"0": pattern})
    network(torch.randn(1, 4, 9, 9)).square().sum().backward()
    gradient = network[0].parametrizations["weight"].original.grad
    assert torch.equal(gradient != 0, pattern.mask)


def test_a_module_with_two_names_is_masked_once() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    network = nn.ModuleDict({"first": shared, "second": shared})
    pattern = half(shared)
    attach(network, {"first": pattern})
    plain, patterns = strip(network)
    assert list(patterns) == ["first"]
    assert plain["first"] is plain["second"]
    assert int((plain["second"].weight != 0).sum()) == pattern.kept


def test_a_pruned_weight_that_is_not_finite_becomes_zero() -> None:
    network = nn.Sequential(nn.Linear(2, 1, bias=False))
    network[0].weight.data = torch.tensor([[torch.inf, 1.0]])
    attach(network, {"0": Pattern(torch.tensor([[False, True]]))})
    assert strip(network)[0][0].weight.tolist() == [[0.0, 1.0]]


def test_the_users_own_parametrization_stays() -> None:
    network = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)))
    plain, patterns = strip(network)
    assert patterns == {}
    assert parametrize.is_parametrized(plain[0], "weight")


@pytest.mark.parametrize(("name", "problem"), [("9", "no layer '9'"), ("1", "ReLU")])
def test_a_pattern_for_no_layer_is_refused(name: str, problem: str) -> None:
    network = two_convolutions()
    with pytest.raises(UsageError, match=problem):
        attach(network, {name: half(network[0])})


def test_a_pattern_for_another_layer_is_refused() -> None:
    network = two_convolutions()
    with pytest.raises(UsageError, match="shaped"):
        attach(network, {"0": half(network[2])})
