"""Layers of one weight, and modules under two names: one mask, which is the truth for all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from thinlens.api import cost, prune
from thinlens.checkpoints.tensors import pack_network, unpack_network
from thinlens.methods import METHODS
from thinlens.sparsity.masking import attach, strip
from thinlens.sparsity.prunable import find_layers
from thinlens.sparsity.tied import tied_layers
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

SIZE = (16, 16)


class Tied(nn.Module):
    """Two convolutions of one weight, each with its own bias, and one under two names."""

    def __init__(self, order: str = "first") -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.two.weight = self.one.weight
        self.again = self.same = nn.Conv2d(8, 8, 1)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        one, two = (self.one, self.two) if self.order == "first" else (self.two, self.one)
        y = two(one(self.head(x)).relu()).relu()
        return self.tail(self.same(self.again(y).relu()))  # type: ignore[no-any-return]


def tied(order: str = "first") -> Tied:
    torch.manual_seed(0)
    return Tied(order).eval()


def pairs() -> list[tuple[Tensor, Tensor]]:
    x = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    return [(x, x)]


def test_layers_of_one_weight_are_one_layer_with_all_calls() -> None:
    layers = {layer.name: layer for layer in find_layers(tied(), (1, 3, *SIZE), m=4)}
    assert list(layers) == ["head", "one", "again", "tail"]
    assert layers["one"].calls == layers["again"].calls == 2
    assert layers["one"].macs == 2 * 8 * 8 * 9 * 256
    total = cost(tied(), SIZE).total
    assert total.params == sum(p.numel() for p in tied().parameters())


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("method", ["one-shot", "least-squares", "sr-ste", "sls"])
def test_the_mask_is_the_truth_for_all_layers_of_a_weight(method: str, order: str) -> None:
    steps = 4 if METHODS[method].NEEDS_STEPS else 0
    options = {"pixels": 512, "preset": "knapsack"} if method == "least-squares" else {}
    if method == "sls":
        options = {"finish": "greedy", "preset": "code"}
    trainer = Trainer(Settings(steps=steps))
    dense = tied(order)
    thin = prune(dense, budget="1/2", m=4, method=method, data=pairs(), trainer=trainer, **options)
    assert set(thin.patterns) == {"one", "again"}
    module = thin.module
    assert isinstance(module, Tied)
    assert module.one.weight is module.two.weight
    assert module.again is module.same
    assert not module.two.weight[~thin.patterns["one"].mask].any()
    assert cost(thin, SIZE).budget == pytest.approx(thin.record["achieved"])
    assert thin.record["achieved"] <= 0.5


def test_masks_hold_for_all_layers_during_training_and_after_it() -> None:
    dense = prune(tied(), budget="1/2", m=4, method="one-shot", size=SIZE)
    attach(dense.module, dense.patterns)
    with torch.no_grad():
        dense.module.one.parametrizations.weight.original.add_(1)  # type: ignore[union-attr, operator]
    assert torch.equal(dense.module.one.weight, dense.module.two.weight)  # type: ignore[union-attr, arg-type]
    plain, patterns = strip(dense.module)
    assert set(patterns) == set(dense.patterns)
    assert plain.one.weight is plain.two.weight
    assert torch.equal(plain(pairs()[0][0]), dense.module(pairs()[0][0]))


def test_a_tied_weight_is_stored_once(tmp_path: Path) -> None:
    thin = prune(tied(), budget="1/2", m=4, method="one-shot", size=SIZE)
    tensors, entries = pack_network(thin.module, thin.patterns)
    names = [entry.name for entry in entries]
    assert "one.weight" in names
    assert "two.weight" not in names
    weights, patterns = unpack_network(tensors, entries, tied())
    assert torch.equal(weights["one.weight"], thin.module.two.weight)  # type: ignore[union-attr, arg-type]
    assert set(patterns) == set(thin.patterns)


def test_layers_of_two_kinds_that_share_a_weight_stay_dense() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 3), nn.Conv2d(8, 3, 3)
    )
    network[2].weight = network[1].weight
    reasons = {layer.name: layer.reason for layer in find_layers(network, (1, 3, 16, 16), m=4)}
    assert reasons["1"] == "its weight is also that of 2, a layer of another kind"
    assert reasons["2"] == "its weight is also that of 1, a layer of another kind"
    assert tied_layers(network) == {}
