"""Least squares on large networks: shared Gram matrices, sensitivities from gradients, progress."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from small_networks import RandomData, crossed
from thinlens.api import prune
from thinlens.methods.large_moments import GramCache, LargeMomentSums, moment_sums
from thinlens.methods.least_squares import gradient_sensitivity
from thinlens.methods.least_squares import method as least_squares
from thinlens.methods.least_squares.compensation import NMConstraint, joint_mask, refit
from thinlens.methods.least_squares.method import LeastSquares
from thinlens.methods.moments import Moments, MomentSums, sample
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.layout import PrunableModule, canonical
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings


def layer_of(kind: str, channels: int, bias: bool) -> PrunableModule:
    if kind == "linear":
        return nn.Linear(channels, 6, bias=bias)
    if kind == "transposed":
        return nn.ConvTranspose2d(channels, 6, 4, 2, 1, bias=bias)
    return nn.Conv2d(channels, 6, 3, padding=1, bias=bias, groups=1 + (kind == "grouped"))


def inputs(layer: PrunableModule, channels: int) -> Tensor:
    x = torch.rand(2, channels, 9, 8) + 3  # means that are large against the variance
    return x.movedim(1, -1).contiguous() if isinstance(layer, nn.Linear) else x


def assert_close(one: Moments, other: Moments) -> None:
    for name in ("xx", "xy", "yy", "mean_x", "mean_y"):
        expected = getattr(other, name)
        scale = expected.abs().max() + 1e-30
        assert (getattr(one, name) - expected).abs().max() <= 1e-5 * scale, name
    assert one.positions == other.positions


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["conv", "grouped", "linear", "transposed"]), st.booleans(), st.integers(0, 9)
)
@torch.no_grad()
def test_single_precision_moments_are_those_of_double_precision(
    kind: str, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = layer_of(kind, 8, bias)
    large, double = LargeMomentSums(layer, GramCache()), MomentSums(layer)
    for _ in range(2):  # calls of a shared layer
        x = inputs(layer, 8)
        drawn = sample(layer, layer(x), 100, seed)
        large.add(x, drawn)
        double.add(x, drawn)
    assert_close(large.moments(), double.moments())


@pytest.mark.parametrize("kind", ["conv", "linear"])
@torch.no_grad()
def test_layers_of_a_dense_block_share_their_gram_matrix(kind: str) -> None:
    torch.manual_seed(0)
    cache, x = GramCache(), inputs(layer_of(kind, 8, True), 8)
    axis = -1 if kind == "linear" else 1
    for channels, shared in ((8, 0), (8, 8), (12, 16), (12, 28)):
        layer = layer_of(kind, channels, bias=True)
        if channels > x.shape[axis]:
            x = torch.cat([x, x.narrow(axis, 0, 4).cos()], axis)
        drawn = sample(layer, layer(x), 100, 0)
        large, double = LargeMomentSums(layer, cache), MomentSums(layer)
        large.add(x, drawn)
        double.add(x, drawn)
        assert cache.shared == shared
        assert_close(large.moments(), double.moments())


@torch.no_grad()
def test_what_differs_is_not_shared() -> None:
    torch.manual_seed(0)
    layer, x = layer_of("conv", 8, bias=True), torch.rand(2, 8, 9, 8)
    drawn = sample(layer, layer(x), 100, 0)
    cache = GramCache()
    LargeMomentSums(layer, cache).add(x, drawn)
    other = nn.Conv2d(8, 6, 3, padding=0)
    others = [
        (other, x, sample(other, other(x), 100, 0)),  # another geometry
        (layer, x, sample(layer, layer(x), 100, 1)),  # other positions
        (layer, x.flip(0), drawn),  # another input
        (layer, x.add_(1), drawn),  # the same tensor, changed in place
    ]
    for one, y, positions in others:
        LargeMomentSums(one, cache).add(y, positions)
    assert cache.shared == 0


def test_layers_of_many_columns_are_summed_in_single_precision() -> None:
    assert isinstance(moment_sums(nn.Linear(800, 1), GramCache()), LargeMomentSums)
    assert not isinstance(moment_sums(nn.Linear(799, 1), GramCache()), LargeMomentSums)


def test_large_layers_lose_little_by_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(600, 96) @ torch.randn(96, 96)
    layer = nn.Linear(96, 8)
    sums = MomentSums(layer)
    with torch.no_grad():
        sums.add(x, sample(layer, layer(x), 1000, 0))
    moments, weight = sums.moments(), canonical(layer.weight.detach(), layer).reshape(1, 8, -1)
    errors = []
    for columns in (800, 8):
        monkeypatch.setattr("thinlens.methods.least_squares.compensation.LARGE_COLUMNS", columns)
        mask = joint_mask(moments, weight.double(), NMConstraint(8, 32, 96))
        errors.append(float(moments.error(refit(moments, weight.double(), mask, 0.03)).sum()))
    assert errors[1] <= 1.05 * errors[0]


class Block(nn.Module):
    """Changes the outputs of its convolutions in place, as published networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1)
        self.act = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.act(self.one(x))).mul_(2)  # type: ignore[no-any-return]


def test_derivatives_are_those_of_the_jacobian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_sensitivity, "PROBES", 150)
    torch.manual_seed(0)
    network, image = Block().eval(), torch.rand(1, 2, 4, 4)
    estimated = gradient_sensitivity.squared_derivatives(network, image, ["one", "two"], 0)
    (last,), (first,) = estimated["two"], estimated["one"]
    # Every output entry is twice an entry of `two`: 4 x 16 entries of 32.
    torch.testing.assert_close(last, torch.full((2,), 2.0).double(), rtol=0.25, atol=0)
    with torch.no_grad():
        slope = torch.where(network.one(image) > 0, 1.0, 0.2).square().sum((0, 2, 3))
        exact = 4 * slope * network.two.weight[:, :, 0, 0].square().sum(0) / 32
    torch.testing.assert_close(first, exact.double(), rtol=0.3, atol=0)
    assert all(p.requires_grad for p in network.parameters())


def pruned(model: nn.Module, **options: object) -> tuple[dict[str, int], float]:
    shared = {"budget": Budget.parse("1/2"), "example": (1, 3, 16, 16), "m": 4, "pixels": 1024}
    method = LeastSquares.preset("knapsack", **{**shared, **options})
    result = method.run(model, RandomData(), Trainer(Settings(steps=0)))
    layers = {name: pattern.n or 0 for name, pattern in result.patterns.items()}
    return layers, result.record["achieved"]


def test_gradients_choose_about_as_runs_of_the_network_do(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, budget = pruned(crossed())
    monkeypatch.setattr(least_squares, "MOST_SENSITIVITY_WORK", 0.0)
    estimated, achieved = pruned(crossed())
    assert achieved == pytest.approx(budget, abs=0.1)
    assert achieved <= 0.5
    assert all(abs(estimated[name] - n) <= 1 for name, n in exact.items())


@pytest.mark.parametrize("work", [0.0, 1e12])
def test_progress_counts_every_layer_of_every_stage(
    work: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(least_squares, "MOST_SENSITIVITY_WORK", work)
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int, values: Mapping[str, float]) -> None:
        calls.append((done, total))

    trainer = Trainer(Settings(steps=0), None, progress)
    data = [RandomData().batch(0, 0, 0)]
    prune(crossed(), budget="1/2", m=4, data=data, pixels=256, trainer=trainer)
    total = calls[0][1]
    assert calls == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize("work", [0.0, 1e12])
@pytest.mark.parametrize("kind", ["2x2", "constant", "black", "few"])
def test_images_that_determine_no_weights_do_no_harm(
    kind: str, work: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of few pixels were a `_LinAlgError`; those of one are refused before."""
    monkeypatch.setattr(least_squares, "MOST_SENSITIVITY_WORK", work)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 3, 3, padding=1),
    )  # fmt: skip
    sizes = {"2x2": (2, 2), "constant": (24, 24), "black": (24, 24), "few": (6, 6)}
    image = torch.rand(1, 3, *sizes[kind])
    if kind in ("constant", "black"):
        image = torch.full_like(image, 0.3 if kind == "constant" else 0.0)
    data = [(image, image)]
    thin = prune(model, budget="1/2", m=4, data=data, pixels=1, size=(24, 24)).module.eval()
    probe = torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        dense, result = model.eval()(probe), thin(probe)
    assert torch.isfinite(result).all()
    assert (result - dense).abs().max() <= 2 * (dense.max() - dense.min())
