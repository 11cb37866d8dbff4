"""Who is the fastest, when all take turns in one run?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from thinlens.benchmark.backends.backend import PreparedRun

WARM_UP = 2
"""Runs of each engine that do not count: first plans, page faults, clocks that rise."""

PAUSE = 0.03
"""Seconds between two engines, in which threads of the one before fall asleep."""

Report = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True, eq=False)
class Entrant:
    """An engine with a network to run."""

    engine: str
    precision: str
    sparse: bool
    """Whether zeros are left out; otherwise they are multiplied like other weights."""
    run: PreparedRun
    expected: Tensor
    """What torch answers in float32."""


@dataclass(frozen=True)
class Clock:
    """How time is taken and let pass; tests bring their own."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def of(cls, threads: int) -> Clock:
        """Return the wall's clock, or for one thread the CPU's: others hardly count then."""
        return cls(now=time.process_time) if threads == 1 else cls()


@dataclass
class Row:
    """What came out for one entrant."""

    entrant: Entrant
    threads: int
    max_abs_error: float
    """Against torch in float32."""
    seconds: list[float] = field(default_factory=list)

    @property
    def ms(self) -> float:
        """The median, in milliseconds."""
        return 1e3 * float(np.median(self.seconds))

    def as_json(self) -> dict[str, Any]:
        """Return the row as `bench --json` prints it."""
        low, high = (1e3 * float(x) for x in np.percentile(self.seconds, [10, 90]))
        return {
            "engine": self.entrant.engine,
            "precision": self.entrant.precision,
            "sparse": self.entrant.sparse,
            "threads": self.threads,
            "ms_median": self.ms,
            "ms_p10": low,
            "ms_p90": high,
            "max_abs_error": self.max_abs_error,
        }


def compete(
    entrants: Sequence[Entrant],
    threads: int,
    rounds: int,
    *,
    clock: Clock | None = None,
    report: Report | None = None,
) -> list[Row]:
    """Let every entrant run `rounds` times, in turns, and see how far it is from torch.

    Each round starts with another entrant, so that none always follows the same one.
    """
    clock = clock or Clock.of(threads)
    rows = [Row(entrant, threads, _error(entrant)) for entrant in entrants]
    total = rounds * len(rows)
    for number in range(rounds):
        first = number % max(1, len(rows))
        for row in rows[first:] + rows[:first]:
            clock.sleep(PAUSE)
            begin = clock.now()
            row.entrant.run()
            row.seconds.append(clock.now() - begin)
        if report:
            report((number + 1) * len(rows), total, {})
    return rows


def _error(entrant: Entrant) -> float:
    """Warm an entrant up and return the most that its output differs from what is expected."""
    for _ in range(WARM_UP):
        output = entrant.run()
    return float((output - entrant.expected).abs().max())


def best_dense(rows: Sequence[Row], precisions: Sequence[str]) -> dict[str, Any]:
    """Return the fastest engine that multiplies by every zero, by precision and of `any`."""
    dense = [row for row in rows if not row.entrant.sparse]
    groups = {p: [row for row in dense if row.entrant.precision == p] for p in precisions}
    return {name: _best(group) for name, group in {**groups, "any": dense}.items()}


def speedup(rows: Sequence[Row], best: dict[str, Any]) -> dict[str, float | None]:
    """Return the best dense time over ours on the thin network, by precision and of `any`."""
    ours = [row for row in rows if row.entrant.sparse]
    found: dict[str, float | None] = {}
    for name in ("fp32", "bf16", "any"):
        times = [row.ms for row in ours if name in (row.entrant.precision, "any")]
        found[name] = best[name]["ms"] / min(times) if times and best[name] else None
    return found


def _best(rows: Sequence[Row]) -> dict[str, Any] | None:
    if not rows:
        return None
    fastest = min(rows, key=lambda row: row.ms)
    return {"engine": fastest.entrant.engine, "ms": fastest.ms}
