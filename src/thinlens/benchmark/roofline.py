"""Roofline: a run's arithmetic and memory traffic as fractions of the machine's peak rates."""

from __future__ import annotations

from dataclasses import dataclass

from thinlens.engine.native import fastest, native
from thinlens.engine.plan import Plan
from thinlens.errors import UsageError


@dataclass(frozen=True)
class RooflineLimits:
    """Peak rates of the machine, measured with the threads of the run."""

    flops: float
    """Floating-point operations per second, in registers."""
    bytes: float
    """Bytes per second, read and written, in memory."""


@dataclass(frozen=True)
class RooflineFractions:
    """The rate of a run, and its fractions of the limits."""

    flops: float
    """Floating-point operations per second, of non-zero weights only."""
    of_flops: float
    """Fraction of the peak rate of arithmetic."""
    of_bytes: float
    """Fraction of the peak rate of memory, if every tensor is read from and written to memory: an
    upper bound, because of caches."""


def measure_roofline(threads: int) -> RooflineLimits:
    """Measure the CPU's peak rates, which takes about half a second."""
    core = native()
    if core is None:
        raise UsageError("the native engine was not built")
    measured = core.measure_limits(core.kernels(fastest()), core.ThreadPool(threads))
    return RooflineLimits(measured.flops, measured.bytes)


def roofline_fractions(plan: Plan, seconds: float, limits: RooflineLimits) -> RooflineFractions:
    """Compare a run of `plan` in `seconds` with the limits."""
    flops = 2 * plan.multiply_adds / seconds
    return RooflineFractions(flops, flops / limits.flops, plan.traffic / seconds / limits.bytes)
