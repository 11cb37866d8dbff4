"""Interleaved benchmark of prepared cases: median times, errors and speed-ups."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from thinlens.benchmark.backends.backend import PreparedRun
from thinlens.engine.first_image import psnr_to
from thinlens.engine.timings import Clock, measure_interleaved
from thinlens.progress import Progress

NATIVE_NAME = "thinlens"
"""Name of the native engine among the backends."""

PAUSE_SECONDS = 0.03
"""Seconds before each run, in which spinning worker threads of the previous backend park."""


@dataclass(frozen=True, eq=False)
class BenchCase:
    """A backend with a network to run."""

    engine: str
    precision: str
    sparse: bool
    """Whether zeros are skipped; otherwise they are multiplied like other weights."""
    run: PreparedRun
    expected: Tensor
    """The output of torch in float32."""


@dataclass(frozen=True)
class BenchRow:
    """The measurements of one case."""

    case: BenchCase
    threads: int
    max_abs_error: float
    """Against torch in float32."""
    decibels: float
    """PSNR to torch in float32; infinite where nothing differs."""
    seconds: Sequence[float]
    """Of every timed round."""
    cpu_seconds: Sequence[float]
    """Of all threads, in every timed round."""

    @property
    def ms(self) -> float:
        """The median, in milliseconds."""
        return 1e3 * float(np.median(self.seconds))

    def as_json(self) -> dict[str, Any]:
        """Return the row as `bench --json` prints it."""
        low, high = (1e3 * float(x) for x in np.percentile(self.seconds, [10, 90]))
        return {
            "engine": self.case.engine,
            "precision": self.case.precision,
            "sparse": self.case.sparse,
            "threads": self.threads,
            "ms_median": self.ms,
            "ms_p10": low,
            "ms_p90": high,
            "cpu_ms": 1e3 * float(np.median(self.cpu_seconds)),
            "max_abs_error": self.max_abs_error,
            "decibels": self.decibels if math.isfinite(self.decibels) else None,
        }


def bench_clock(threads: int) -> Clock:
    """Return the wall clock, or the CPU's for one thread: other programs hardly count then."""
    return Clock(now=time.process_time) if threads == 1 else Clock()


def run_interleaved(
    cases: Sequence[BenchCase],
    threads: int,
    rounds: int,
    *,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> list[BenchRow]:
    """Time `rounds` runs of every case, interleaved, after two runs of warm-up.

    `threads` is what the cases were prepared with.
    """

    def after_round(done: int) -> None:
        if progress is not None:
            progress(done * len(cases), rounds * len(cases), {})

    results = [case.run() for case in cases]
    errors = [
        (float((result - case.expected).abs().max()), psnr_to(case.expected, result))
        for case, result in zip(cases, results, strict=True)
    ]
    cpu: list[list[float]] = [[] for _ in cases]

    def run(index: int) -> None:
        begin = time.process_time()
        cases[index].run()
        cpu[index].append(time.process_time() - begin)

    seconds = measure_interleaved(
        [partial(run, index) for index in range(len(cases))],
        rounds,
        pause=PAUSE_SECONDS,
        clock=clock or bench_clock(threads),
        after_round=after_round,
    )
    return [
        BenchRow(case, threads, *error, times, of_cpu[-rounds:])
        for case, error, times, of_cpu in zip(cases, errors, seconds, cpu, strict=True)
    ]


def best_dense(rows: Sequence[BenchRow], precisions: Sequence[str]) -> dict[str, Any]:
    """Return the fastest case that multiplies by zeros, by precision and of `any`."""
    dense = [row for row in rows if not row.case.sparse]
    groups = {p: [row for row in dense if row.case.precision == p] for p in precisions}
    return {name: _fastest(group) for name, group in {**groups, "any": dense}.items()}


def speedups(rows: Sequence[BenchRow], best: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the best dense time over our fastest sparse one, by precision and of `any`."""
    sparse = [row for row in rows if row.case.sparse and row.case.engine == NATIVE_NAME]
    factors: dict[str, float | None] = {}
    for name in (x for x in ("fp32", "bf16", "int16", "any") if x in best):
        times = [row.ms for row in sparse if name in (row.case.precision, "any")]
        factors[name] = best[name]["ms"] / min(times) if times and best[name] else None
    return factors


def _fastest(rows: Sequence[BenchRow]) -> dict[str, Any] | None:
    if not rows:
        return None
    fastest = min(rows, key=lambda row: row.ms)
    return {"engine": fastest.case.engine, "ms": fastest.ms}
