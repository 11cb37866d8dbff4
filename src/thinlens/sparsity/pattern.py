"""Patterns: which entries of a weight are kept, and the result of pruning a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.sparsity.display import describe_patterns, patterns_html
from thinlens.sparsity.layout import PrunableModule, canonical, in_groups


@dataclass(frozen=True, eq=False)
class Pattern:
    """The kept entries of one weight: a mask, which `n` and `m` describe if it is N:M.

    >>> pattern = Pattern(torch.tensor([[True, False, True, False]]), n=1, m=2)
    >>> pattern.kept
    2
    >>> pattern.check(nn.Linear(4, 1))
    """

    mask: Tensor
    """bool, shaped as the module's weight: True where an entry is kept."""
    n: int | None = None
    """Entries kept in every group, at most; None where the pattern is not N:M."""
    m: int | None = None
    """Consecutive input channels in a group; None where the pattern is not N:M."""

    @property
    def kept(self) -> int:
        """The number of kept entries."""
        return int(self.mask.sum())

    def check(self, module: PrunableModule) -> None:
        """Raise `UsageError` unless the mask fits `module` and is as `n` and `m` describe it."""
        if self.mask.dtype != torch.bool or self.mask.shape != module.weight.shape:
            raise UsageError(
                f"a mask must be bool and shaped {tuple(module.weight.shape)}, "
                f"not {self.mask.dtype} {tuple(self.mask.shape)}"
            )
        if self.n is None or self.m is None:
            return
        groups = in_groups(canonical(self.mask.to(torch.uint8), module), self.m, fill=0)
        most = int(groups.sum(dim=1).max())
        if most > self.n:
            raise UsageError(f"a group of {self.m} keeps {most} weights, more than N = {self.n}")


Patterns = Mapping[str, Pattern]
"""Patterns by the name of the pruned module."""


@dataclass(frozen=True, eq=False)
class SharedRanks:
    """The ranks of one weight that several branches share, each branch with another N."""

    ranks: Tensor
    """uint8, shaped as the module's weight: 1 is the largest of its group."""
    m: int
    """Consecutive input channels in a group."""

    def pattern(self, n: int) -> Pattern:
        """The pattern of the branch that keeps the `n` best-ranked of every group."""
        return pattern_from_ranks(self.ranks, n, self.m)

    def check(self, module: PrunableModule) -> None:
        """Raise `UsageError` unless every group holds each of 1, 2, ... up to its size once."""
        if self.ranks.dtype != torch.uint8 or self.ranks.shape != module.weight.shape:
            raise UsageError(
                f"ranks must be uint8 and shaped {tuple(module.weight.shape)}, "
                f"not {self.ranks.dtype} {tuple(self.ranks.shape)}"
            )
        rows = canonical(self.ranks.cpu(), module).to(torch.int16)
        ranks = torch.arange(rows.shape[-1], dtype=torch.int16).remainder(self.m) + 1
        padding = torch.iinfo(torch.int16).max
        ordered = in_groups(rows, self.m, padding).sort(dim=1).values
        if not torch.equal(ordered, in_groups(ranks.expand_as(rows), self.m, padding)):
            raise UsageError(f"the ranks of a group of {self.m} are no permutation")


def pattern_from_ranks(ranked: Tensor, n: int, m: int) -> Pattern:
    """Return the pattern that keeps the `n` best-ranked of every group of `m`.

    >>> pattern_from_ranks(torch.tensor([[2, 1, 1, 2]]), n=1, m=2).mask.tolist()
    [[False, True, True, False]]
    """
    return Pattern(ranked <= n, n, m)


@dataclass(frozen=True)
class Pruned:
    """A pruned network: the result of `Method.run`."""

    module: nn.Module
    """Plain, of the class of the network that was pruned, with its zeros in place."""
    patterns: dict[str, Pattern]
    """The masks by layer name; nothing ranks the module's weights again after this."""
    record: dict[str, Any] = field(default_factory=dict)
    """What the method reports: budget, achieved cost, seconds, settings."""

    def __repr__(self) -> str:
        return f"Pruned({type(self.module).__name__}: {self._sentence()})"

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        return patterns_html(type(self.module).__name__, self._sentence(), self.patterns)

    def _sentence(self) -> str:
        return describe_patterns(self.module, self.patterns)
