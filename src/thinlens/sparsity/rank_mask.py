"""How does a weight learn how many of every M it keeps? (SLS, equations 1 to 4)

A weight W is the sum of M pruning units: unit i holds the entries that rank i-th in their group.
Unit i lives while its priority p_i exceeds a threshold; the priorities are learned through the
straight-through estimator. The M units are never stored: a uint8 rank per weight makes the mask,
and the gradients of all M priorities are one segmented sum.
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


def ordered_priorities(k: Tensor) -> Tensor:
    """Return `p_i = k_1 ... k_{i-1}`, `p_1 = 1` (equation 4): `[..., M - 1]` to `[..., M]`."""
    p: Tensor = _CumulativeProduct.apply(k)  # type: ignore[no-untyped-call]
    return p


def independent_priorities(k: Tensor) -> Tensor:
    """Return `p_1 = 1, p_i = k_{i-1}`: the ablation without priority order (Table 3)."""
    return torch.cat([torch.ones_like(k[..., :1]), k], dim=-1)


class RankMask(nn.Module):
    """A parametrization that keeps the living units of a weight (equation 2).

    Its gradient: pruned entries get none, and unit i's priority gets the sum of `G W` over its
    entries, dead or alive (equation 3). On top of the weight it holds one byte an entry.
    """

    ranks: Tensor
    """uint8, shaped as the weight; 1 is the largest of its group."""

    gate: Tensor
    """k_0, by which all priorities are multiplied; a parameter where N may become 0, else 1."""

    def __init__(
        self, layer: PrunableModule, m: int, *, ordered: bool = True, droppable: bool = False
    ) -> None:
        super().__init__()
        self.m = m
        self.ordered = ordered
        self.alive: tuple[bool, ...] = (True,) * m
        """b of equation 2, unit by unit; `keep` and the search set it."""
        self.priorities = nn.Parameter(torch.ones(m - 1, device=layer.weight.device))
        """k of equation 4, float32 `[M - 1]`."""
        one = torch.ones((), device=layer.weight.device)
        if droppable:
            self.gate = nn.Parameter(one)
        else:
            self.register_buffer("gate", one, persistent=False)
        self.register_buffer("ranks", magnitude_ranks(layer.weight, layer, m))
        self._rows = partial(canonical, module=layer)

    @property
    def n(self) -> int:
        """How many of every M live."""
        return sum(self.alive)

    @property
    def droppable(self) -> bool:
        """Whether N may become 0."""
        return isinstance(self.gate, nn.Parameter)

    @property
    def learned(self) -> list[nn.Parameter]:
        """What the search moves: the priorities' factors."""
        gates = [self.gate] if isinstance(self.gate, nn.Parameter) else []
        return [self.priorities, *gates]

    @property
    def frozen(self) -> bool:
        """Whether N no longer changes."""
        return not self.priorities.requires_grad

    def freeze(self) -> None:
        """Fix N; the optimizer leaves a priority without a gradient alone."""
        for parameter in self.learned:
            parameter.requires_grad_(False)
            parameter.grad = None

    def keep(self, n: int) -> None:
        """Let `n` units live: the best of the living, or all of them and the best of the dead."""
        order = sorted(range(self.m), key=lambda unit: not self.alive[unit])
        chosen = set(order[:n])
        self.alive = tuple(unit in chosen for unit in range(self.m))

    def regroup(self, ranked: Tensor) -> int:
        """Take new ranks and return how many entries of the mask flipped."""
        before = self.mask()
        self.ranks.copy_(ranked)
        return int((before != self.mask()).sum())

    def mask(self) -> Tensor:
        """Return bool, shaped as the weight: True where an entry lives."""
        n = self.n
        if all(self.alive[:n]):
            return self.ranks <= n
        alive = torch.tensor((False, *self.alive), device=self.ranks.device)
        return alive[self.ranks.long()]

    def forward(self, weight: Tensor) -> Tensor:
        p = None
        if not self.frozen:
            p = (ordered_priorities if self.ordered else independent_priorities)(self.priorities)
            p = p * self.gate if self.droppable else p
        masked: Tensor = _Masked.apply(  # type: ignore[no-untyped-call]
            weight, p, self.mask(), self._unit_sums
        )
        return masked

    def pattern(self) -> Pattern:
        """The pattern that `forward` applies now."""
        return Pattern(self.mask(), self.n, self.m)

    def _unit_sums(self, values: Tensor) -> Tensor:
        """Sum `values`, shaped as the weight, over the entries of each unit: `[M]`.

        A row of ranks holds each rank once, so that the scatter has no collisions and the sum is
        the same on every run. What fills up a short last group is zero and ranks last.
        """
        units = in_groups(self._rows(self.ranks), self.m, fill=self.m).long() - 1  # [G, M]
        rows = in_groups(self._rows(values), self.m, fill=0.0)
        return torch.zeros_like(rows).scatter_(1, units, rows).sum(0)


def stacked(parameters: Sequence[Tensor]) -> Tensor:
    """Stack vectors of different lengths to `[L, longest]`, filled up with zeros."""
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
        pull = ctx.unit_sums(gradient * weight) if ctx.needs_input_grad[1] else None
        return gradient * mask, pull, None, None


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
