"""Which sparsities does one set of weights serve at once, and what does each cost?

Branches keep the N best of the same groups of M, so that a thin branch's weights are a subset of
a thicker one's (ClassPruning, section 3.3).
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
    """N of every branch, rising, in groups of one M. `str` gives back what `of` reads."""

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
        """Whether the last branch hides nothing."""
        return self.kept[-1] == self.m

    @classmethod
    def of(cls, text: str) -> Branches:
        """Read `1:4,2:4,4:4`; branches that do not nest are a `UsageError`."""
        pairs = [re.fullmatch(r"\s*(\d{1,3}):(\d{1,3})\s*", part) for part in text.split(",")]
        found = [(int(pair[1]), int(pair[2])) for pair in pairs if pair]
        if len(found) < len(pairs):
            raise UsageError(f"branches {text!r}: wanted N:M by N:M, such as 1:4,2:4,4:4")
        if len({m for _, m in found}) > 1:
            raise UsageError(f"branches {text!r} do not nest: wanted one M for all")
        return cls(tuple(n for n, _ in found), found[0][1])


def branch_flops(
    network: nn.Module, example: Sequence[int], m: int, kept: Sequence[Mapping[str, int]]
) -> list[int]:
    """Return what `network` costs on an input shaped `example`, branch by branch.

    `kept` is N by layer name of every branch. In ClassPruning's convention, but a layer that is
    not named is charged whole.
    """
    # every layer may be thin here; which ones are, `kept` says
    layers = find_layers(network, example, m=m, policy="pad", keep_dense=())
    found = (cost(network, example, layers, n, "classpruning").flops for n in kept)
    return [flops for flops in found if flops is not None]
