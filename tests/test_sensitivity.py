"""Does a knapsack buy what the network would lose most without?"""

from __future__ import annotations

import copy
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from small_networks import RandomData, crossed
from thinlens.api import prune
from thinlens.errors import UsageError
from thinlens.methods.least_squares.method import LeastSquares
from thinlens.methods.least_squares.sensitivity import gains, halvings, sensitivities
from thinlens.sparsity.allocation import allocate
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.training.loop import Settings, Trainer

EXAMPLE = (1, 3, 16, 16)


@given(st.integers(2, 40), st.data())
def test_gains_fall_and_add_up_to_no_more_than_was_measured(m: int, data: st.DataObject) -> None:
    measured = {n: data.draw(st.floats(0, 1)) for n in halvings(m)}
    units = gains({m: 0.0, **measured})
    assert len(units) == m
    assert all(one >= other - 1e-12 >= -1e-12 for one, other in pairwise(units))
    for n, loss in measured.items():
        assert sum(units[n:]) <= loss + 1e-9  # what is missing at N, by the convex function


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.integers(4, 12))
def test_the_greedy_choice_is_the_best_where_losses_are_convex(
    sizes: list[float], kept: int
) -> None:
    tables = {str(i): range(5) for i in range(3)}
    losses = {str(i): {n: size * (4 - n) ** 2 for n in range(1, 5)} for i, size in enumerate(sizes)}
    bought = {name: gains(loss) for name, loss in losses.items()}
    found = allocate(tables, bought, Budget.parse(f"{kept}/12"), dict.fromkeys(tables, 1))

    def total(n: tuple[int, ...]) -> float:
        return sum(loss[k] for loss, k in zip(losses.values(), n, strict=True))

    best = min(total(n) for n in product(range(1, 5), repeat=3) if sum(n) <= max(kept, 3))
    assert total(tuple(found.n.values())) == pytest.approx(best)


def test_each_layer_is_pruned_alone() -> None:
    model = crossed().eval()
    before = copy.deepcopy(model.state_dict())
    image = torch.rand(2, 3, 16, 16)
    tables = {"body": range(9), "shared": range(5)}

    def thin(network: nn.Module, name: str, n: int) -> None:
        layer = prunable_layer(network, name)
        layer.weight.mul_(magnitude_ranks(layer.weight, layer, len(tables[name]) - 1) <= n)

    found = sensitivities(model, image, tables, thin)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert list(found["body"]) == [8, 4, 2, 1]
    for name, losses in found.items():
        for n, loss in losses.items():
            twin = copy.deepcopy(model)
            with torch.no_grad():
                thin(twin, name, n)
                expected = (twin(image) - model(image)).square().mean()
            assert loss == pytest.approx(float(expected), rel=1e-5)
        assert losses[len(tables[name]) - 1] == 0


class Tangled(nn.Module):
    """Activations in place, a weight of two layers, one used outside of its layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third, self.last = (nn.Conv2d(3, 3, 3, 1, 1) for _ in "1234")
        self.twin = nn.Conv2d(3, 3, 3, padding=1)
        self.twin.weight = self.third.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu_(self.first(x))
        y = self.second(y) + self.twin(y)
        y = nn.functional.conv2d(y, self.last.weight, padding=1)
        return self.last(self.third(y).relu_()).mul_(2.0) + self.first(y)


@pytest.mark.parametrize("most", [0, 4 * 2 * 3 * 64, 1 << 30])
def test_replayed_layers_change_no_bit(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinlens.methods.least_squares.sensitivity.MOST_RECORDED_BYTES", most)
    model, image = Tangled().eval(), torch.rand(1, 3, 8, 8)
    tables = {name: range(4) for name in ("first", "second", "third", "last")}

    def thin(network: nn.Module, name: str, n: int) -> None:
        prunable_layer(network, name).weight.mul_(n / 3)

    for name, losses in sensitivities(model, image, tables, thin).items():
        for n, loss in losses.items():
            twin = copy.deepcopy(model)
            with torch.no_grad():
                thin(twin, name, n)
                expected = (twin(image) - model(image)).square().mean()
            assert loss == float(expected)


def test_a_layer_that_hardly_matters_keeps_least_and_the_network_is_better_for_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *[nn.Conv2d(3, 16, 3, padding=1), *_block(), *_block(), nn.Conv2d(16, 3, 1)]
    )
    with torch.no_grad():
        idle = prunable_layer(model, "3.conv")
        idle.weight.mul_(1e-2)
    errors, layers = {}, {}
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    for allocation in ("uniform", "knapsack"):
        method = LeastSquares(
            budget=Budget.parse("1/4"), example=EXAMPLE, m=16, pixels=4096, allocation=allocation
        )
        thin = method.run(model, RandomData(), Trainer(Settings(steps=0)))
        with torch.no_grad():
            errors[allocation] = float((thin.module(image) - model(image)).square().mean())
        layers[allocation] = {name: n for name, (n, _) in thin.record["layers"].items()}
        assert thin.record["achieved"] <= 0.25
        assert thin.record["allocation"] == allocation
    assert set(layers["uniform"].values()) == {4}
    assert min(layers["knapsack"], key=layers["knapsack"].__getitem__) == "3.conv"
    assert errors["knapsack"] < 0.8 * errors["uniform"]


class Residual(nn.Module):
    """A convolution beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.conv(x))


def _block() -> list[nn.Module]:
    return [Residual(), nn.ReLU()]


def test_another_allocation_is_refused() -> None:
    with pytest.raises(UsageError, match="allocation 'luck': wanted uniform or knapsack"):
        LeastSquares(budget=Budget.parse("1/4"), example=EXAMPLE, allocation="luck")


def test_budgets_share_the_sensitivities_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def counted(*arguments: Any) -> dict[str, dict[int, float]]:
        counts.append(1)
        return sensitivities(*arguments)

    monkeypatch.setattr("thinlens.methods.least_squares.method.sensitivities", counted)
    torch.manual_seed(0)
    first = nn.Conv2d(3, 16, 3, padding=1)
    model = nn.Sequential(first, *_block(), *_block(), nn.Conv2d(16, 3, 1))
    data = list(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(9)))

    def layers(network: nn.Module, budget: str) -> Any:
        return prune(network, budget=budget, data=data, m=16, pixels=512).record["layers"]

    half, quarter = layers(model, "1/2"), layers(model, "1/4")
    assert len(counts) == 1
    monkeypatch.setattr("thinlens.methods.least_squares.stored_sensitivities._measurements", {})
    assert quarter == layers(model, "1/4") != half
    assert len(counts) == 2
    with torch.no_grad():
        prunable_layer(model, "1.conv").weight.mul_(1e-2)
    assert layers(model, "1/4") != quarter
    assert len(counts) == 3
