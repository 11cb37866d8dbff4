"""Are weights made pair by pair as DHP says, and tied as the network ties its channels?"""

from __future__ import annotations

import pytest
import torch

from fmp_cases import EXAMPLE, NETWORKS, SETTINGS, case
from thinlens.errors import UsageError
from thinlens.methods.fmp.hypernetwork import HypernetworkConfig, WeightGenerator
from thinlens.sparsity.prunable import find_layers


@pytest.mark.parametrize("indicator", ["weight", "kernel"])
@pytest.mark.parametrize("shape", [(3, 4, 3, 2), (2, 5)])
def test_every_pair_has_maps_of_its_own(indicator: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    first, second = torch.arange(shape[0]), torch.arange(shape[1]) + 1
    form = HypernetworkConfig(indicator=indicator, embedding=3)
    made = WeightGenerator(torch.zeros(shape), first, second, form)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    z = torch.randn(7)
    weight = made(z)
    assert weight.shape == shape
    for a in range(shape[0]):
        for b in range(shape[1]):
            pair = a * shape[1] + b
            latent = z[a] * z[b + 1] + made.b0[pair]
            embedded = made.w1[pair] * latent + made.b1[pair]
            kernel = (made.w2[pair] @ embedded + made.b2[pair]).reshape(shape[2:])
            torch.testing.assert_close(weight[a, b], kernel * made.indicator[a, b])


def test_vectors_are_tied_repeated_and_pinned() -> None:
    """EDSR: the trunk is one vector over all sums, a shuffle repeats, the image is pinned."""
    module = case("edsr").module
    axes = {
        name: (g.first.tolist(), g.second.tolist())
        for name, g in zip(module.names, module.generators, strict=True)
    }
    trunk = axes["head.0"][0]
    assert axes["body.0.body.2"][0] == axes["body.1.body.2"][0] == axes["body.2"][0] == trunk
    assert axes["body.0.body.0"][1] == axes["tail.0.0"][1] == trunk
    assert axes["body.0.body.2"][1] == axes["body.0.body.0"][0] != trunk
    repeated = [place for place in axes["tail.1"][1] for _ in range(4)]
    assert axes["tail.0.0"][0] == repeated
    assert axes["head.0"][1] == axes["tail.1"][0] == [0, 0, 0]
    assert len(module.channel_ids) == len(module.vector) == 12 * 4


@pytest.mark.parametrize("name", NETWORKS)
def test_it_can_begin_with_the_given_weights(name: str) -> None:
    found = case(name, start="weights")
    image = torch.rand(1, 3, 20, 20)
    found.model.eval()
    found.module.eval()
    with torch.no_grad():
        torch.testing.assert_close(found.module(image), found.model(image), rtol=1e-4, atol=1e-5)
        plain = found.module.plain().eval()
        assert torch.equal(plain(image), found.module(image))
    assert list(plain.state_dict()) == list(found.model.state_dict())
    makers = zip(found.module.names, found.module.indicators(), strict=True)
    for layer, indicator in makers:  # the order of dying is that of sizes, but for the smallest
        sizes = found.model.get_parameter(f"{layer}.weight").abs()
        large = indicator > 0.2
        assert (indicator[large].argsort() == sizes[large].argsort()).all()


def test_a_fresh_one_forgets_the_given_weights_and_has_their_variance() -> None:
    one, other = case("edsr"), case("edsr")
    for parameter in other.model.parameters():
        torch.nn.init.zeros_(parameter)
    layers = find_layers(other.model, EXAMPLE)
    again = other.method.search(other.model, layers, other.channels, SETTINGS)
    pairs = zip(one.module.parameters(), again.module.parameters(), strict=True)
    generated = {id(p) for p in one.module.network.parameters() if not p.requires_grad}
    assert all(torch.equal(a, b) for a, b in pairs if id(a) not in generated)
    torch.manual_seed(0)
    wide = WeightGenerator(
        torch.zeros(64, 64, 3, 3), torch.arange(64) + 1, torch.arange(64) + 65, HypernetworkConfig()
    )
    wide.initialize(64 * 9)
    weight = wide(torch.cat([torch.ones(1), torch.randn(128)]))
    assert float(weight.detach().var() * 64 * 9) == pytest.approx(1, rel=0.3)


def test_gradients_reach_everything_and_checkpointing_changes_none() -> None:
    gradients = []
    for checkpointed in (False, True):
        module = case("edsr", checkpointed=checkpointed).module
        module(torch.rand(1, 3, 8, 8)).square().mean().backward()
        trained = {k: p.grad for k, p in module.named_parameters() if p.requires_grad}
        assert all(g is not None and g.abs().sum() > 0 for g in trained.values())
        gradients.append(trained)
    assert all(torch.equal(gradients[0][k], gradients[1][k]) for k in gradients[0])


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UsageError, match="indicator 'filter': wanted weight, kernel or nm"):
        HypernetworkConfig(indicator="filter")
