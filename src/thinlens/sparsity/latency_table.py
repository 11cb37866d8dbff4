"""What does a network take in milliseconds, and which budget is that?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from thinlens.errors import UsageError
from thinlens.sparsity.budget import Budget

NANOSECONDS = 1_000_000
"""In a millisecond."""


@dataclass(frozen=True)
class Prices:
    """Measured times, in nanoseconds."""

    tables: Mapping[str, Sequence[int]]
    """By prunable layer, what it takes at N = 0..M; more weights always take longer."""
    rest: int
    """What everything else takes, pruned or not."""
    measured: str
    """On what: kernels, threads, size."""

    @property
    def dense(self) -> int:
        """What the prunable layers take dense."""
        return sum(costs[-1] for costs in self.tables.values())

    def budget(self, milliseconds: Fraction) -> Budget:
        """Return the part of the prunable layers' time that is left for a whole network.

        Raises `UsageError` with the least time where N = 1 everywhere takes longer.
        """
        lowest = sum(costs[1] for costs in self.tables.values())
        left = milliseconds * NANOSECONDS - self.rest
        if left < lowest:
            raise UsageError(
                f"budget {float(milliseconds):g}ms is below N = 1 in every layer: that takes "
                f"{self.milliseconds(lowest):.2f} ms ({self.measured})"
            )
        return Budget(min(Fraction(1), Fraction(left) / self.dense))

    def milliseconds(self, cost: int) -> float:
        """Return what a network takes whose prunable layers take `cost`."""
        return (self.rest + cost) / NANOSECONDS
