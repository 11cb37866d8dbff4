"""Learnable N:M masks (SLS, equations 1 to 4) and the straight-through mask of SR-STE.

A weight W is the sum of M pruning units: unit i holds the entries that rank i-th in their group.
Unit i is kept while its priority p_i exceeds a threshold; the priorities are learned through the
straight-through estimator. The M units are never stored: the mask is computed from a uint8 rank
per weight, and the gradients of all M priorities are one segmented sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from thinlens.sparsity.layout import PrunableModule, canonical, in_groups
from thinlens.sparsity.pattern import Pattern
from thinlens.sparsity.ranks import magnitude_ranks

UnitSums = Callable[[Tensor], Tensor]
"""Sums of values, shaped as a weight, by pruning unit: `[M]`."""


def ordered_priorities(k: Tensor) -> Tensor:
    """Return `p_i = k_1 ... k_{i-1}`, `p_1 = 1` (equation 4): `[..., M - 1]` to `[..., M]`.

    >>> ordered_priorities(torch.tensor([0.5, 0.5])).tolist()
    [1.0, 0.5, 0.25]
    """
    p: Tensor = _CumulativeProduct.apply(k)  # type: ignore[no-untyped-call]
    return p


def independent_priorities(k: Tensor) -> Tensor:
    """Return `p_1 = 1, p_i = k_{i-1}`: the ablation without priority order (Table 3)."""
    return torch.cat([torch.ones_like(k[..., :1]), k], dim=-1)


class RankMask(nn.Module):
    """A parametrization that keeps some pruning units of a weight (equation 2).

    Its gradient: pruned entries get none, and unit i's priority gets the sum of `G W` over its
    entries, pruned or kept (equation 3). It stores one byte an entry beside the weight.
    """

    ranks: Tensor
    """uint8, shaped as the weight; 1 is the largest of its group."""

    gate: Tensor
    """k_0, by which all priorities are multiplied; a parameter where N may become 0, else 1."""

    def __init__(
        self, layer: PrunableModule, m: int, *, ordered: bool = True, allow_zero: bool = False
    ) -> None:
        super().__init__()
        self.m = m
        self.ordered = ordered
        self.kept_units: tuple[bool, ...] = (True,) * m
        """b of equation 2, unit by unit; `set_n` and the search set it."""
        self.priorities = nn.Parameter(torch.ones(m - 1, device=layer.weight.device))
        """k of equation 4, float32 `[M - 1]`."""
        one = torch.ones((), device=layer.weight.device)
        if allow_zero:
            self.gate = nn.Parameter(one)
        else:
            self.register_buffer("gate", one, persistent=False)
        self.register_buffer("ranks", magnitude_ranks(layer.weight, layer, m))
        self._rows = partial(canonical, module=layer)

    @property
    def n(self) -> int:
        """Entries kept in every group of M."""
        return sum(self.kept_units)

    @property
    def allow_zero(self) -> bool:
        """Whether N may become 0."""
        return isinstance(self.gate, nn.Parameter)

    @property
    def learnable(self) -> list[nn.Parameter]:
        """The parameters that the search trains: the priorities' factors."""
        gates = [self.gate] if isinstance(self.gate, nn.Parameter) else []
        return [self.priorities, *gates]

    @property
    def frozen(self) -> bool:
        """Whether N no longer changes."""
        return not self.priorities.requires_grad

    def freeze(self) -> None:
        """Fix N; the optimizer does not update a priority without a gradient."""
        for parameter in self.learnable:
            parameter.requires_grad_(False)
            parameter.grad = None

    def set_n(self, n: int) -> None:
        """Keep `n` units: the best of the kept ones, or all of them and the best of the pruned."""
        order = sorted(range(self.m), key=lambda unit: not self.kept_units[unit])
        chosen = set(order[:n])
        self.kept_units = tuple(unit in chosen for unit in range(self.m))

    def update_ranks(self, ranked: Tensor) -> int:
        """Replace the ranks and return how many entries of the mask changed."""
        before = self.mask()
        self.ranks.copy_(ranked)
        return int((before != self.mask()).sum())

    def mask(self) -> Tensor:
        """Return bool, shaped as the weight: True where an entry is kept."""
        n = self.n
        if all(self.kept_units[:n]):
            return self.ranks <= n
        kept = torch.tensor((False, *self.kept_units), device=self.ranks.device)
        return kept[self.ranks.long()]

    def forward(self, weight: Tensor) -> Tensor:
        p = None
        if not self.frozen:
            p = (ordered_priorities if self.ordered else independent_priorities)(self.priorities)
            p = p * self.gate if self.allow_zero else p
        product: Tensor = _Masked.apply(  # type: ignore[no-untyped-call]
            weight, p, self.mask(), self._unit_sums
        )
        return product

    def pattern(self) -> Pattern:
        """The pattern that `forward` applies now."""
        return Pattern(self.mask(), self.n, self.m)

    def _unit_sums(self, values: Tensor) -> Tensor:
        """Sum `values`, shaped as the weight, over the entries of each unit: `[M]`.

        A row of ranks holds each rank once, so that the scatter has no collisions and the sum is
        the same on every run. The padding of a short last group is zero and ranks last.
        """
        units = in_groups(self._rows(self.ranks), self.m, fill=self.m).long() - 1  # [G, M]
        rows = in_groups(self._rows(values), self.m, fill=0.0)
        return torch.zeros_like(rows).scatter_(1, units, rows).sum(0)


def stack_padded(parameters: Sequence[Tensor]) -> Tensor:
    """Stack vectors of different lengths to `[L, longest]`, padded with zeros."""
    return nn.utils.rnn.pad_sequence(list(parameters), batch_first=True)


class _Masked(Function):
    """`sum_i b_i W_i` with `db_i / dp_i = 1` (equations 2 and 3)."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, p: Tensor | None, mask: Tensor, unit_sums: UnitSums
    ) -> Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.unit_sums = unit_sums
        return weight * mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        weight, mask = ctx.saved_tensors
        priorities = ctx.unit_sums(gradient * weight) if ctx.needs_input_grad[1] else None
        return gradient * mask, priorities, None, None


class _CumulativeProduct(Function):
    """Equation 4 with a gradient that divides by nothing, so that k = 0 is no special case.

    `dL/dk_n = p_n sum_{i > n} g_i prod_{n < m < i} k_m`.
    """

    @staticmethod
    def forward(ctx: Any, k: Tensor) -> Tensor:
        p = torch.cat([torch.ones_like(k[..., :1]), k.cumprod(-1)], dim=-1)
        ctx.save_for_backward(k, p)
        return p

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        k, p = cast(tuple[Tensor, Tensor], ctx.saved_tensors)
        size = k.shape[-1]
        after = torch.ones(size, size, dtype=torch.bool, device=k.device).triu(1)  # m > n
        between = torch.where(after, k[..., None, :], 1.0).cumprod(-1).triu()  # [..., n, i - 1]
        return p[..., :-1] * (between @ gradient[..., 1:, None])[..., 0]


def straight_through_mask(weight: Tensor, mask: Tensor, decay: float) -> Tensor:
    """Return `W m`, whose gradient is `dL/d(W m) + decay (1 - m) W`: straight through the mask.

    Pruned weights are thus trained too, and decay towards 0 (SR-STE, Zhou et al., ICLR 2021).
    """
    product: Tensor = _StraightThrough.apply(weight, mask, decay)  # type: ignore[no-untyped-call]
    return product


class _StraightThrough(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, mask = ctx.saved_tensors
        return (gradient + ctx.decay * ~mask * weight if ctx.decay else gradient), None, None
