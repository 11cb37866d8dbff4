"""torch as a backend: eager, channels last, or compiled by Inductor."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from thinlens.benchmark.backends.backend import (
    BackendSettings,
    PreparedRun,
    UnavailableError,
    no_warnings,
)
from thinlens.benchmark.installation import cpu_flags

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""torch runs int8 only in networks that were written for it."""

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of /proc/cpuinfo of CPUs that multiply bfloat16."""


def eager(module: nn.Module, image: Tensor, setting: BackendSettings) -> PreparedRun:
    """Run the module as it is."""
    return _run(copy.deepcopy(module), image, setting, torch.contiguous_format)


def channels_last(module: nn.Module, image: Tensor, setting: BackendSettings) -> PreparedRun:
    """Run it with channels innermost in memory, which oneDNN prefers."""
    return _run(copy.deepcopy(module), image, setting, torch.channels_last)


def compiled(module: nn.Module, image: Tensor, setting: BackendSettings) -> PreparedRun:
    """Run Inductor's compilation with frozen weights; it needs a C++ compiler."""
    import torch._inductor.config as inductor

    dtype = _dtype(setting)
    frozen = copy.deepcopy(module).to(dtype).requires_grad_(False)
    x = image.to(dtype)
    faster = torch.compile(frozen)
    try:
        with no_warnings(), inductor.patch(freezing=True), torch.no_grad():
            faster(x)
    except Exception as error:  # whatever its compilers raise
        raise UnavailableError(f"torch.compile failed: {_first_line(error)}") from error

    def run() -> Tensor:
        with torch.no_grad():  # as it was compiled: another mode would compile it again
            result: Tensor = faster(x).float()
        return result

    return run


def _run(
    module: nn.Module, image: Tensor, setting: BackendSettings, memory: torch.memory_format
) -> PreparedRun:
    dtype = _dtype(setting)
    fast = module.to(dtype=dtype, memory_format=memory)  # type: ignore[call-overload]
    x = image.to(dtype=dtype, memory_format=memory)

    def run() -> Tensor:
        with torch.inference_mode():
            result: Tensor = fast(x).float()
        return result

    return run


def _dtype(setting: BackendSettings) -> torch.dtype:
    if setting.precision not in TORCH_DTYPES:
        raise UnavailableError(f"torch has no {setting.precision} for a network of floats")
    flags = cpu_flags()
    if setting.precision == "bf16" and flags and flags.isdisjoint(BF16_FLAGS):
        raise UnavailableError("torch emulates bf16 on this CPU, which takes many times as long")
    return TORCH_DTYPES[setting.precision]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().partition("\n")[0]
