"""Muon takes the step that its papers describe."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from thinlens.training.muon import Muon, orthogonalize


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 99))
def test_singular_values_come_near_one_and_directions_stay(
    rows: int, columns: int, seed: int
) -> None:
    # Singular values from 1 down to 0.1: what the five iterations are made for.
    size = min(rows, columns)
    u = torch.linalg.qr(gaussian(rows, size, seed=seed))[0]
    v = torch.linalg.qr(gaussian(columns, size, seed=seed + 100))[0]
    matrix = u @ torch.diag(torch.logspace(0, -1, size)) @ v.T
    result = orthogonalize(matrix, 5)
    values = torch.linalg.svdvals(result)
    assert 0.5 < values.min() <= values.max() < 1.3
    inside = u.T @ result @ v
    torch.testing.assert_close(inside, torch.diag(inside.diag()), rtol=0, atol=1e-3)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_a_matrix_and_its_transpose_get_transposed_steps(
    rows: int, columns: int, seed: int
) -> None:
    matrix = gaussian(rows, columns, seed=seed)
    torch.testing.assert_close(orthogonalize(matrix.T, 5), orthogonalize(matrix, 5).T)


def test_no_gradient_means_no_step() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 4), 5), torch.zeros(3, 4))


def reference(weight: Tensor, gradients: list[Tensor], lr: float) -> Tensor:
    """Muon written again in float64, with every formula spelled out."""
    w, average = (
        weight.double().flatten(1),
        torch.zeros_like(weight, dtype=torch.float64).flatten(1),
    )
    for gradient in gradients:
        g = gradient.double().flatten(1)
        average = 0.95 * average + 0.05 * g
        x = 0.05 * g + 0.95 * average
        x = x / (x.square().sum().sqrt() + 1e-7)
        if x.shape[0] > x.shape[1]:
            for _ in range(5):
                a = x.T @ x
                x = 3.4445 * x + x @ (-4.7750 * a + 2.0315 * a @ a)
        else:
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        w = w - lr * 0.2 * math.sqrt(max(w.shape)) * x
    return w.view(weight.shape)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (16, 2, 1, 1), (5, 7), (3, 3, 2)])
def test_steps_equal_a_float64_reference(shape: tuple[int, ...]) -> None:
    start = gaussian(*shape)
    gradients = [gaussian(*shape, seed=k + 1) for k in range(5)]
    expected = reference(start, gradients, lr=0.01)
    for layout in (torch.contiguous_format, torch.channels_last):
        if len(shape) != 4 and layout is torch.channels_last:
            continue
        weight = start.clone(memory_format=layout).requires_grad_()
        optimizer = Muon([weight], lr=0.01)
        for gradient in gradients:
            weight.grad = gradient.clone(memory_format=layout)
            optimizer.step()
        assert weight.stride() == start.clone(memory_format=layout).stride()
        torch.testing.assert_close(weight.detach().double(), expected, rtol=0, atol=2e-6)


def test_an_update_has_the_root_mean_square_it_promises() -> None:
    weight = torch.zeros(24, 64, requires_grad=True)
    weight.grad = gaussian(24, 64)
    Muon([weight], lr=1.0).step()
    # A full-rank orthogonal [a, b] has RMS 1 / sqrt(max(a, b)); times 0.2 sqrt(max(a, b)).
    assert weight.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


def test_vectors_take_adams_step() -> None:
    vectors = [gaussian(9).requires_grad_() for _ in range(2)]
    muon = Muon([vectors[0]], lr=0.01)
    adam = torch.optim.Adam([vectors[1]], lr=0.01)
    for k in range(20):
        for vector in vectors:
            vector.grad = gaussian(9, seed=k) * 10.0 ** (k % 5 - 3)
        muon.step()
        adam.step()
    torch.testing.assert_close(vectors[0], vectors[1], rtol=0, atol=1e-7)


def test_a_parameter_without_gradient_stays() -> None:
    frozen, moving = torch.ones(2, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    moving.grad = torch.ones(2, 2)
    Muon([frozen, moving], lr=0.1).step()
    assert torch.equal(frozen, torch.ones(2, 2))
    assert not torch.equal(moving, torch.ones(2, 2))


def test_muon_needs_fewer_steps_than_sgd_on_least_squares() -> None:
    # Inputs whose directions differ a hundredfold in scale: the largest sets SGD's best rate.
    inputs = gaussian(256, 16) * torch.logspace(0, -2, 16)
    targets = inputs @ gaussian(16, 16, seed=1) / 4

    def best_loss(kind: type[torch.optim.Optimizer], rates: list[float], steps: int = 60) -> float:
        losses = []
        for rate in rates:
            weight = torch.zeros(16, 16, requires_grad=True)
            optimizer = kind([weight], lr=rate)  # type: ignore[call-arg]
            for k in range(steps):
                optimizer.param_groups[0]["lr"] = rate * (1 - k / steps)
                optimizer.zero_grad()
                loss = (inputs @ weight - targets).square().mean()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            losses.append(loss.item())
        return min(losses)

    assert best_loss(Muon, [0.03, 0.1, 0.3]) < best_loss(torch.optim.SGD, [1, 3, 10, 30]) / 2
