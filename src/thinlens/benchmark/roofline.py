"""How near does a run come to what the machine can do?"""

from __future__ import annotations

from dataclasses import dataclass

from thinlens.engine.native import fastest, native
from thinlens.engine.plan import Plan
from thinlens.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """Measured on the spot, with the threads of the run."""

    flops: float
    """Floating-point operations a second, in registers."""
    bytes: float
    """Bytes a second, read and written, in memory."""


@dataclass(frozen=True)
class Shares:
    """What a run did in a second, and which parts of the limits that is."""

    flops: float
    """Of living weights only."""
    of_flops: float
    of_bytes: float
    """As if every tensor came from memory and went there; caches make it an upper bound."""


def limits(threads: int) -> Limits:
    """Measure what the CPU can do at best, which takes about half a second."""
    core = native()
    if core is None:
        raise UsageError("the native engine was not built")
    measured = core.measure_limits(core.kernels(fastest()), core.ThreadPool(threads))
    return Limits(measured.flops, measured.bytes)


def shares(plan: Plan, seconds: float, most: Limits) -> Shares:
    """Compare a run of `plan` in `seconds` with the limits."""
    flops = 2 * plan.multiply_adds / seconds
    return Shares(flops, flops / most.flops, plan.traffic / seconds / most.bytes)
