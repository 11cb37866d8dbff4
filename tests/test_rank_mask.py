"""A rank mask equals the sum of the M units it represents, in value and in gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from thinlens.sparsity.layout import PrunableModule, canonical, in_groups
from thinlens.sparsity.masking import strip
from thinlens.sparsity.rank_mask import (
    RankMask,
    independent_priorities,
    ordered_priorities,
    stack_padded,
)
from thinlens.sparsity.ranks import magnitude_ranks

LAYERS: dict[str, tuple[PrunableModule, int]] = {
    "convolution": (nn.Conv2d(8, 5, 3), 4),
    "two groups": (nn.Conv2d(16, 4, 3, groups=2), 4),
    "transposed": (nn.ConvTranspose2d(8, 6, 3, groups=2), 4),
    "linear": (nn.Linear(12, 7), 6),
    "a short last group": (nn.Conv2d(10, 3, 1), 4),
}


def dense_copies(weight: Tensor, layer: PrunableModule, m: int) -> list[Tensor]:
    """Equation 1 to the letter: the M sparse tensors whose sum is the weight."""
    ranked = magnitude_ranks(weight, layer, m)
    return [weight * (ranked == i) for i in range(1, m + 1)]


def products(k: Tensor) -> list[Tensor]:
    """Equation 4 to the letter."""
    p = [torch.ones((), dtype=k.dtype)]
    for factor in k:
        p.append(p[-1] * factor)
    return p


def straight_through(p: Tensor, tau: float) -> Tensor:
    return (p > tau).to(p.dtype) + p - p.detach()


def make(name: str, allow_zero: bool = False) -> tuple[PrunableModule, RankMask]:
    layer, m = LAYERS[name]
    layer = copy.deepcopy(layer).double()
    return layer, RankMask(layer, m, allow_zero=allow_zero).double()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=31))
def test_priorities_begin_at_one_and_never_rise(values: list[float]) -> None:
    p = ordered_priorities(torch.tensor(values))
    assert p[0] == 1
    assert (p.diff() <= 0).all()
    assert len(p) == len(values) + 1


@pytest.mark.parametrize("name", LAYERS)
def test_every_group_keeps_exactly_n_and_they_are_the_largest(name: str) -> None:
    layer, mask = make(name)
    magnitudes = in_groups(canonical(layer.weight.detach().abs(), layer), mask.m, fill=-1.0)
    for n in range(1, mask.m + 1):
        mask.set_n(n)
        kept = in_groups(canonical(mask.mask(), layer).double(), mask.m, fill=0.0)
        real = (magnitudes >= 0).sum(1)
        torch.testing.assert_close(kept.sum(1), real.clamp(max=n).double())
        least_kept = torch.where(kept > 0, magnitudes, torch.inf).amin(1)
        most_lost = torch.where(kept > 0, -torch.inf, magnitudes).amax(1)
        assert (least_kept >= most_lost).all()
        mask.kept_units = (True,) * mask.m


@pytest.mark.parametrize("name", LAYERS)
def test_all_units_together_are_the_weight_bit_for_bit(name: str) -> None:
    layer, mask = make(name)
    assert mask.n == mask.m
    assert torch.equal(mask(layer.weight), layer.weight)


@pytest.mark.parametrize("gate", [1.0, 0.7, 0.3])
@pytest.mark.parametrize("name", LAYERS)
def test_a_gate_is_a_factor_of_every_priority(name: str, gate: float) -> None:
    layer, mask = make(name, allow_zero=True)
    with torch.no_grad():
        mask.priorities.uniform_(0.8, 1, generator=torch.Generator().manual_seed(1))
        mask.gate.fill_(gate)
    k0 = mask.gate.detach().clone().requires_grad_()
    k = mask.priorities.detach().clone().requires_grad_()
    p = [k0 * q for q in products(k)]
    units = dense_copies(layer.weight.detach(), layer, mask.m)
    expected = sum(straight_through(q, 0.5) * unit for q, unit in zip(p, units, strict=True))
    mask.kept_units = tuple(bool(q > 0.5) for q in p)
    assert any(mask.kept_units) == (gate > 0.5)
    upstream = torch.randn(layer.weight.shape, dtype=torch.float64)
    torch.as_tensor(expected).backward(upstream)
    masked = mask(layer.weight)
    masked.backward(upstream)
    torch.testing.assert_close(masked, torch.as_tensor(expected))
    torch.testing.assert_close(mask.gate.grad, k0.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mask.priorities.grad, k.grad, rtol=1e-12, atol=1e-12)
    mask.freeze()
    assert mask.gate.grad is None
    assert mask.frozen


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("special", [0.0, 1.0, None])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_equal_those_of_m_dense_copies(
    name: str, special: float | None, ordered: bool
) -> None:
    layer, mask = make(name)
    mask.ordered = ordered
    with torch.no_grad():
        mask.priorities.uniform_(0.5, 1, generator=torch.Generator().manual_seed(1))
        if special is not None:
            mask.priorities[mask.m // 2 - 1] = special
    k = mask.priorities.detach().clone().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    p = products(k) if ordered else [torch.ones((), dtype=k.dtype), *k]
    units = dense_copies(weight, layer, mask.m)
    expected = sum(straight_through(q, 0.5) * unit for q, unit in zip(p, units, strict=True))
    mask.kept_units = tuple(bool(q > 0.5) for q in p)
    upstream = torch.randn(weight.shape, dtype=weight.dtype)
    torch.as_tensor(expected).backward(upstream)

    masked = mask(layer.weight)
    masked.backward(upstream)

    assert torch.equal(masked, torch.as_tensor(expected).detach())
    torch.testing.assert_close(mask.priorities.grad, k.grad, rtol=1e-12, atol=1e-12)
    assert torch.equal(layer.weight.grad, weight.grad)
    assert (layer.weight.grad[~mask.mask()] == 0).all()  # pruned weights stay


@pytest.mark.parametrize("zeros", [[], [0], [3], [1, 4], [0, 1, 2, 3, 4]])
def test_the_analytic_gradient_of_priorities_is_right_at_zeros_too(zeros: list[int]) -> None:
    k = torch.linspace(0.3, 1, 5, dtype=torch.float64)
    k[zeros] = 0
    k.requires_grad_()
    assert torch.autograd.gradcheck(ordered_priorities, (k,))
    assert torch.autograd.gradcheck(ordered_priorities, (torch.stack([k, k.flip(0)]),))


def test_stacked_layers_of_different_m_are_what_each_is_alone() -> None:
    short, long = torch.tensor([0.9, 0.8]), torch.tensor([0.7, 0.6, 0.5, 0.4])
    p = ordered_priorities(stack_padded([short, long]))
    assert torch.equal(p[0, :3], ordered_priorities(short))
    assert (p[0, 3:] == 0).all()
    assert torch.equal(p[1], ordered_priorities(long))


def test_all_k_falling_together_lose_the_last_unit_after_221_steps_of_1e_4() -> None:
    """The worked example of the dynamics at M = 32: N = 1 takes 5,000 steps."""

    def alive(steps: int) -> int:
        k = torch.full((31,), 1 - 1e-4 * steps, dtype=torch.float64)
        return int((ordered_priorities(k) > 0.5).sum())

    assert (alive(221), alive(222)) == (32, 31)
    assert (alive(4999), alive(5000)) == (2, 1)


def test_independent_priorities_are_themselves() -> None:
    k = torch.tensor([0.2, 0.9])
    assert torch.equal(independent_priorities(k), torch.tensor([1.0, 0.2, 0.9]))


def test_a_mask_need_not_be_a_prefix_without_priority_order() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[4.0, 1.0, 3.0, 2.0]])
    mask = RankMask(layer, 4, ordered=False)
    mask.kept_units = (True, False, True, False)
    assert torch.equal(mask(layer.weight), torch.tensor([[4.0, 0.0, 0.0, 2.0]]))
    mask.set_n(3)  # the best of the dead comes back
    assert torch.equal(mask(layer.weight), torch.tensor([[4.0, 0.0, 3.0, 2.0]]))
    mask.set_n(1)
    assert torch.equal(mask(layer.weight), torch.tensor([[4.0, 0.0, 0.0, 0.0]]))


def test_regrouping_counts_the_entries_that_flip() -> None:
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    mask = RankMask(layer, 4)
    mask.set_n(2)
    swapped = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 2.0, 3.0, 1.0]])
    assert mask.update_ranks(magnitude_ranks(swapped, layer, 4)) == 2
    assert mask.update_ranks(magnitude_ranks(swapped, layer, 4)) == 0


def test_a_frozen_mask_has_no_priority_gradients() -> None:
    layer = nn.Conv2d(8, 2, 1)
    mask = RankMask(layer, 8)
    parametrize.register_parametrization(layer, "weight", mask, unsafe=True)
    layer(torch.randn(1, 8, 2, 2)).sum().backward()
    assert mask.priorities.grad is not None
    mask.freeze()
    layer(torch.randn(1, 8, 2, 2)).sum().backward()
    assert mask.frozen
    assert mask.priorities.grad is None


def test_strip_takes_a_rank_mask_off() -> None:
    layer = nn.Conv2d(8, 2, 1)
    names = set(layer.state_dict())
    mask = RankMask(layer, 8)
    parametrize.register_parametrization(layer, "weight", mask, unsafe=True)
    mask.set_n(3)
    plain, patterns = strip(nn.Sequential(layer))
    pattern = patterns["0"]
    assert (pattern.n, pattern.m) == (3, 8)
    pattern.check(plain[0])
    assert set(plain[0].state_dict()) == names
    assert torch.equal(plain[0].weight, layer.weight)


def test_what_a_step_keeps_is_at_most_ten_bytes_a_weight() -> None:
    """Persistent: one byte of rank and M - 1 numbers a layer; in a step: mask and product."""
    layer = nn.Conv2d(64, 64, 3, bias=False)
    mask = RankMask(layer, 32)
    state = [*mask.buffers(), *mask.parameters()]
    assert sum(t.numel() * t.element_size() for t in state) <= 1.1 * layer.weight.numel()
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    image = torch.randn(1, 64, 4, 4)
    own = {t.untyped_storage().data_ptr() for t in (layer.weight, image)}
    parametrize.register_parametrization(layer, "weight", mask, unsafe=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        layer(image).sum().backward()
    kept = sum(size for pointer, size in saved.items() if pointer not in own)
    assert kept <= 10 * mask.ranks.numel()
