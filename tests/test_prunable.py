"""The right layers are prunable, in any network, and every other one has its reason."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from thinlens.errors import UsageError
from thinlens.models import MODELS, create
from thinlens.sparsity.cost import prunable_macs
from thinlens.sparsity.masking import FixedMask
from thinlens.sparsity.pattern import Pattern
from thinlens.sparsity.prunable import Layer, find_layers


class Odd(nn.Module):
    """A user's network with every kind of layer, one called twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(32, 32, 3, padding=1)
        self.shared = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.grouped = nn.Conv2d(32, 64, 1, groups=2)
        self.thin = nn.Conv2d(64, 12, 1)
        self.gate = nn.Linear(12, 64)
        self.up = nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1)
        self.never = nn.Conv2d(32, 32, 1)
        self.last = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.shared(self.first(x)))
        x = self.grouped(self.depthwise(x))
        gate = self.gate(self.thin(x).mean(dim=(2, 3)))
        return self.last(self.up(x * gate[..., None, None]))


def by_name(layers: list[Layer]) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers}


def test_every_layer_of_a_users_network_is_listed() -> None:
    layers = by_name(find_layers(Odd(), (1, 32, 6, 5), m=16))
    assert list(layers)[-1] == "never"  # all others in the order they run
    reasons = {name: layer.reason for name, layer in layers.items()}
    assert reasons == {
        "first": "it is the first convolution",
        "shared": "",
        "depthwise": "every output sees one input channel, which makes no group",
        "grouped": "",
        "thin": "",
        "gate": "its 12 input channels are no multiple of M = 16",
        "up": "",
        "last": "it makes the image",
        "never": "the network never calls it",
    }
    assert all((layer.m == 16) == layer.prunable for layer in layers.values())
    assert layers["shared"].calls == 2
    assert layers["shared"].macs == 2 * 32 * 32 * 9 * 30
    assert layers["shared"].bias_adds == 0
    assert layers["grouped"].macs == 64 * 16 * 30
    assert layers["gate"].macs == 12 * 64  # one row of 12
    assert layers["up"].macs == 64 * 32 * 16 * 30  # at input positions
    assert layers["up"].bias_adds == 32 * 4 * 30
    assert (layers["never"].macs, layers["never"].calls) == (0, 0)


def test_costs_are_of_one_image_of_a_batch() -> None:
    assert find_layers(Odd(), (3, 32, 6, 5)) == find_layers(Odd(), (1, 32, 6, 5))


@given(channels=st.integers(2, 80), m=st.integers(2, 40))
def test_policies(channels: int, m: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, channels, 1), nn.Conv2d(channels, 96, 1))
    found = {
        policy: find_layers(network, (1, 3, 2, 2), m=m, policy=policy, keep_dense=["0"])[1]
        for policy in ("skip", "pad", "smaller_m")
    }
    assert found["skip"].prunable == (channels % m == 0)
    assert found["pad"].m == m
    dividing = [d for d in range(4, m + 1) if channels % d == 0]
    expected = m if channels % m == 0 else max(dividing, default=None)
    assert found["smaller_m"].m == expected
    assert all(bool(layer.reason) == (layer.m is None) for layer in found.values())


def test_keep_dense_replaces_the_default() -> None:
    layers = by_name(find_layers(Odd(), (1, 32, 6, 5), m=4, keep_dense={"gate", "up"}))
    assert layers["first"].prunable
    assert layers["last"].prunable
    assert layers["up"].reason == layers["gate"].reason == "kept dense on request"
    with pytest.raises(UsageError, match="'nothing'"):
        find_layers(Odd(), (1, 32, 6, 5), keep_dense=["nothing"])


def test_a_last_convolution_before_a_pixel_shuffle_is_prunable() -> None:
    layers = find_layers(create("rfdn"), (1, 3, 16, 16))
    assert [layer.name for layer in layers if not layer.prunable] == ["fea_conv"]
    assert layers[-1].out_channels == 48


def test_every_head_and_tail_that_makes_an_image_is_kept() -> None:
    class TwoStages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleList(nn.Conv2d(3, 32, 1) for _ in range(2))
            self.decoders = nn.ModuleList(nn.Conv2d(32, 3, 1) for _ in range(2))

        def forward(self, x: Tensor) -> list[Tensor]:
            outputs = [x]
            for encode, decode in zip(self.encoders, self.decoders, strict=True):
                outputs.append(decode(encode(outputs[-1])))
            return outputs[1:]

    assert not any(layer.prunable for layer in find_layers(TwoStages(), (1, 3, 4, 4)))


def test_a_wide_output_keeps_only_its_last_convolution() -> None:
    body = nn.Sequential(*(nn.Conv2d(64, 64, 1) for _ in range(4)))
    prunable = [layer.prunable for layer in find_layers(body, (1, 64, 4, 4))]
    assert prunable == [False, True, True, False]


def test_a_parametrized_network_is_listed_as_the_plain_one() -> None:
    plain = create("rfdn", **MODELS["rfdn"].tiny)
    masked = copy.deepcopy(plain)
    for name in ("B1.c1_r", "LR_conv"):
        layer = masked.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        mask = torch.ones_like(layer.weight, dtype=torch.bool)
        parametrize.register_parametrization(layer, "weight", FixedMask(Pattern(mask)))
    assert find_layers(masked, (1, 3, 16, 16), m=4) == find_layers(plain, (1, 3, 16, 16), m=4)


def test_a_network_that_looks_at_values_still_runs() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(1, 32, 1), nn.Conv2d(32, 32, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x) if float(x.mean()) == 0 else x

    layers = find_layers(Looks(), (1, 1, 4, 4), keep_dense=[])
    assert [layer.prunable for layer in layers] == [False, True]
    assert prunable_macs(layers) == 32 * 32 * 16


def test_the_network_is_not_touched() -> None:
    network = create("dncnn-20", **MODELS["dncnn-20"].tiny).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    find_layers(network, (2, 1, 8, 8))
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert network.training
    assert all(not module._forward_hooks for module in network.modules())
    assert next(network.parameters()).device.type == "cpu"


def test_layers_come_in_the_order_they_run() -> None:
    network = create("carn", **MODELS["carn"].tiny)
    found = [layer.name for layer in find_layers(network, (1, 3, 4, 4))]
    ran: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    network(torch.zeros(1, 3, 4, 4))
    assert found == ran


def test_functional_use_of_a_layers_weight_is_seen_as_never_called() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.layer.weight)

    assert [layer.reason for layer in find_layers(Functional(), (1, 32))] == [
        "the network never calls it"
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"m": 1}, "M = 1"), ({"m": 256}, "M = 256"), ({"policy": "guess"}, "'guess'")],
)
def test_wrong_use_is_one_sentence(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_layers(Odd(), (1, 32, 6, 5), **wrong)  # type: ignore[arg-type]


def test_an_input_that_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"cannot run on an input of shape \(1, 7, 6, 5\)"):
        find_layers(Odd(), (1, 7, 6, 5))
