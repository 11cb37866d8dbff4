"""Kernel policy of one engine: by heuristic at first, measured once it has run for long.

The first image must not wait for measurements: kernels are those that were timed on this machine,
and by heuristic where none were. An engine that has run for `MEASURE_AFTER` seconds measures what
is missing when it plans a size again; `measure_kernels`, the command `tune`, does so ahead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from thinlens.engine.kernel_choice import KernelChoice
from thinlens.engine.native import Core
from thinlens.engine.ops.conv import ConvParams, WeightStore
from thinlens.engine.plan import InputRanges, PlanContext
from thinlens.engine.tuner import KernelSelector, KernelSource, Tuner, tuner
from thinlens.machine_memory import physical_bytes

log = logging.getLogger(__name__)

MEASURE_AFTER = 20.0
"""Seconds of running after which kernels are measured: that takes one to a few seconds, and the
heuristic's kernels are a few hundredths slower than the measured ones (benchmarks/heuristic.py)."""

MEMORY_FRACTION = 0.5
"""Of the machine's memory, for the activations of a plan."""

ASSUMED_BYTES = 2**32
"""Of a machine that does not state its memory."""


class KernelPolicy:
    """Selects kernels for an engine; a `KernelSelector`."""

    def __init__(self, kernels: str, *, int16: bool) -> None:
        self._tuner: Tuner = tuner(kernels, int16=int16)
        self._seconds = 0.0
        self._measures = False
        self._sources: set[KernelSource] = set()

    def __call__(self, params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
        if self._measures:
            return self._tuner(params, row_vectors, rows)
        choice, source = self._tuner.stored(params, row_vectors, rows)
        if source is KernelSource.HEURISTIC and source not in self._sources:
            log.info("kernels are selected by heuristic: `thinlens tune` measures them")
        self._sources.add(source)
        return choice

    @property
    def selection(self) -> str:
        """How kernels were selected: measured by this engine, tuned (measured before, all that are
        worth it), or by heuristic; empty before the first one."""
        if self._measures:
            return "measured"
        if KernelSource.TIMES in self._sources and KernelSource.HEURISTIC not in self._sources:
            return "tuned"
        return "heuristic" if self._sources else ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the seconds that the block takes."""
        begin = time.monotonic()
        yield
        self._seconds += time.monotonic() - begin

    def begins_to_measure(self) -> bool:
        """Return True once, when measuring pays: plans that were made before are outdated."""
        has_guessed = KernelSource.HEURISTIC in self._sources
        begins = not self._measures and has_guessed and self._seconds > MEASURE_AFTER
        self._measures |= begins
        return begins


@dataclass(frozen=True)
class KernelMeasurement:
    """What was measured of the convolutions of a network at one size."""

    convolutions: int
    """Those that are worth measuring."""
    changed: int
    """Those whose fastest kernel is not the heuristic's."""
    heuristic_loss: float
    """Seconds of the heuristic's kernels on the measured strips, over those of the fastest, minus
    1."""


class MeasuringSelector:
    """Selects the fastest kernels, which it measures, and compares the heuristic's with them."""

    def __init__(self, kernels: str, *, int16: bool) -> None:
        self._tuner = tuner(kernels, int16=int16)
        self._pairs: list[tuple[float, float]] = []
        """Seconds of the fastest kernel and of the heuristic's, for each convolution."""

    def __call__(self, params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
        choice = self._tuner(params, row_vectors, rows)
        seconds = self._tuner.seconds(params, row_vectors, rows)
        if seconds:
            guess = self._tuner.heuristic(params, row_vectors, rows)
            # strips are as high for all: weigh them by their rows
            self._pairs.append((rows * seconds[choice], rows * seconds[guess]))
        return choice

    def measurement(self) -> KernelMeasurement:
        """Return what was measured so far."""
        best, guessed = (sum(pair[i] for pair in self._pairs) for i in (0, 1))
        changed = sum(guess > least for least, guess in self._pairs)
        loss = guessed / best - 1 if best else 0.0
        return KernelMeasurement(len(self._pairs), changed, loss)


def plan_context(
    core: Core,
    kernels: str,
    threads: int,
    selector: KernelSelector | None,
    least_work: float,
    ranges: InputRanges | None,
) -> PlanContext:
    """Return the context of an engine's plans; without a selector by a `KernelPolicy`."""
    selector = selector or KernelPolicy(kernels, int16=ranges is not None)
    max_bytes = int(MEMORY_FRACTION * (physical_bytes() or ASSUMED_BYTES))
    isa = core.kernels(kernels)
    weights = WeightStore(core)
    return PlanContext(core, isa, selector, max_bytes, weights, threads, least_work, ranges)
