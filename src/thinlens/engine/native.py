"""Is the C++ core there, and which kernels does this CPU offer?"""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

from thinlens.errors import UsageError

PRECISIONS = ("fp32", "bf16")
"""How activations are stored. Sums are float32 in both, and so is the network's output."""


@cache
def native() -> ModuleType | None:
    """Return the extension, or None after one warning where it was not built."""
    try:
        return importlib.import_module("thinlens.engine._native")
    except ImportError as error:
        warnings.warn(
            f"the native engine was not built ({error}): networks run in torch", stacklevel=3
        )
        return None


def fastest(precision: str = "fp32") -> str:
    """Name the fastest kernels that this CPU offers."""
    core = native()
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r}: wanted {' or '.join(PRECISIONS)}")
    if core is None:
        return "torch"
    offered = core.offered() if precision == "fp32" else core.offered_bf16()
    if not offered:
        raise UsageError(f"precision {precision!r}: this CPU has no AVX512_BF16; wanted 'fp32'")
    return str(offered[-1])


def build() -> str:
    """Tell this build of the C++ core from others."""
    core = native()
    return "none" if core is None else f"{Path(str(core.__file__)).stat().st_mtime_ns:x}"
