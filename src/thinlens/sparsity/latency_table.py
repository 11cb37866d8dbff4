"""Latency tables: milliseconds of a network by the N of its layers, and budgets in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from thinlens.errors import UsageError
from thinlens.sparsity.budget import Budget

NANOSECONDS_PER_MILLISECOND = 1_000_000


@dataclass(frozen=True)
class LatencyTable:
    """Measured latencies, in nanoseconds."""

    tables: Mapping[str, Sequence[int]]
    """Latency of each prunable layer at N = 0..M, by layer name; strictly increasing in N."""
    other: int
    """Latency of everything that N does not change."""
    conditions: str
    """What was measured: kernels, threads, size."""

    @property
    def dense(self) -> int:
        """The latency of the prunable layers at N = M."""
        return sum(costs[-1] for costs in self.tables.values())

    def budget(self, milliseconds: Fraction) -> Budget:
        """Return the fraction of the prunable layers' latency that a whole network may keep.

        Raises `UsageError` with the least latency where N = 1 everywhere takes longer.

        >>> table = LatencyTable({"conv": [0, 10**6, 2 * 10**6]}, 10**6, "one thread")
        >>> str(table.budget(Fraction(2)))
        '1/2'
        """
        lowest = sum(costs[1] for costs in self.tables.values())
        available = milliseconds * NANOSECONDS_PER_MILLISECOND - self.other
        if available < lowest:
            raise UsageError(
                f"budget {float(milliseconds):g}ms is below N = 1 in every layer: that takes "
                f"{self.milliseconds(lowest):.2f} ms ({self.conditions})"
            )
        return Budget(min(Fraction(1), Fraction(available) / self.dense))

    def milliseconds(self, cost: int) -> float:
        """Return the latency of a network whose prunable layers take `cost` nanoseconds."""
        return (self.other + cost) / NANOSECONDS_PER_MILLISECOND
