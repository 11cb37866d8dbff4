"""Nested N:M patterns of one set of weights, one for each branch, and the FLOPs of each.

Branches keep the N best of the same groups of M, so that a sparser branch's weights are a subset
of a denser one's (ClassPruning, section 3.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from thinlens.errors import UsageError
from thinlens.sparsity.cost import cost
from thinlens.sparsity.prunable import find_layers
from thinlens.sparsity.ranks import LARGEST_M


@dataclass(frozen=True)
class Branches:
    """N of every branch, rising, in groups of one M; `str` returns what `of` reads.

    >>> branches = Branches.of("1:4, 2:4, 4:4")
    >>> branches.kept, branches.m, str(branches)
    ((1, 2, 4), 4, '1:4,2:4,4:4')
    """

    kept: tuple[int, ...]
    m: int

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.kept))
        if len(self.kept) < 2 or not rising:
            raise UsageError(
                f"branches {self}: wanted two or more that nest, the thinnest first, "
                "such as 1:4,2:4,4:4"
            )
        if not 1 <= self.kept[0] <= self.kept[-1] <= self.m <= LARGEST_M:
            raise UsageError(f"branches {self}: wanted 1 <= N <= M <= {LARGEST_M}")

    def __str__(self) -> str:
        return ",".join(f"{n}:{self.m}" for n in self.kept)

    @property
    def full(self) -> bool:
        """Whether the last branch keeps every weight."""
        return self.kept[-1] == self.m

    @classmethod
    def of(cls, text: str) -> Branches:
        """Read `1:4,2:4,4:4`; branches that do not nest are a `UsageError`."""
        pairs = [re.fullmatch(r"\s*(\d{1,3}):(\d{1,3})\s*", part) for part in text.split(",")]
        patterns = [(int(pair[1]), int(pair[2])) for pair in pairs if pair]
        if len(patterns) < len(pairs):
            raise UsageError(f"branches {text!r}: wanted N:M by N:M, such as 1:4,2:4,4:4")
        if len({m for _, m in patterns}) > 1:
            raise UsageError(f"branches {text!r} do not nest: wanted one M for all")
        return cls(tuple(n for n, _ in patterns), patterns[0][1])


def branch_flops(
    network: nn.Module, example: Sequence[int], m: int, kept: Sequence[Mapping[str, int]]
) -> list[int]:
    """Return the FLOPs of every branch of `network` on an input shaped `example`.

    `kept` is N by layer name of every branch. Counted in ClassPruning's convention, except that a
    layer without an N costs as much as a dense one.
    """
    # every layer may be pruned here; `kept` lists those that are
    layers = find_layers(network, example, m=m, policy="pad", keep_dense=())
    costs = (cost(network, example, layers, n, "classpruning").flops for n in kept)
    return [flops for flops in costs if flops is not None]
