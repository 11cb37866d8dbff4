"""The native engine's core and kernels; tests that need it are skipped where it was not built."""

from __future__ import annotations

import warnings

import pytest

from thinlens.engine.native import native

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # where no compiler was, its tests are skipped
    CORE = native()
KERNELS = CORE.available_kernels("fp32") if CORE is not None else []
BF16 = CORE.available_kernels("bf16") if CORE is not None else []
built = pytest.mark.skipif(CORE is None, reason="the native engine was not built")
