"""Load the native extension and name the kernels that this CPU offers."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from thinlens.engine.precision import find_precision
from thinlens.errors import UsageError

if TYPE_CHECKING:
    from thinlens.engine import _native


class Core(Protocol):
    """The extension module. Its types are described in `_native.pyi`."""

    __file__: str | None
    AxisPlacement: type[_native.AxisPlacement]
    ConvShape: type[_native.ConvShape]
    LineBuffer: type[_native.LineBuffer]
    Placement: type[_native.Placement]
    PointwiseInstruction: type[_native.PointwiseInstruction]
    Program: type[_native.Program]
    Shape: type[_native.Shape]
    Slice: type[_native.Slice]
    SparseWeights: type[_native.SparseWeights]
    StreamBuffer: type[_native.StreamBuffer]
    StreamLimits: type[_native.StreamLimits]
    StreamNode: type[_native.StreamNode]
    StreamPlan: type[_native.StreamPlan]
    StreamRead: type[_native.StreamRead]
    Taps: type[_native.Taps]
    ThreadPool: type[_native.ThreadPool]
    Windows: type[_native.Windows]

    def available_kernels(self, storage: str = "fp32") -> list[str]: ...

    def kernels(self, name: str) -> _native.Kernels: ...

    def measure_limits(
        self, kernels: _native.Kernels, pool: _native.ThreadPool
    ) -> _native.MachineLimits: ...


@cache
def native() -> Core | None:
    """Return the extension, or None after one warning where it was not built."""
    try:
        import thinlens.engine._native as core
    except ImportError as error:
        warnings.warn(
            f"the native engine was not built ({error}): networks run in torch", stacklevel=3
        )
        return None
    return core


def fastest(precision: str = "fp32") -> str:
    """Name the fastest kernels that this CPU offers."""
    core = native()
    wanted = find_precision(precision)
    if core is None:
        return "torch"
    available = core.available_kernels(wanted.storage)
    if not available:
        raise UsageError(f"precision {precision!r}: this CPU has no {wanted.needs}; wanted 'fp32'")
    return available[-1]


def build() -> str:
    """Return a name of this build of the C++ core, which no other build has."""
    core = native()
    return "none" if core is None else f"{Path(str(core.__file__)).stat().st_mtime_ns:x}"
