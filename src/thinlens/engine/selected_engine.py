"""The engine of a command: torch, native, or for each network the faster one (auto).

On another device than the CPU it is torch, in half precision.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from thinlens.engine.automatic import ImageFunction, select_engine
from thinlens.engine.compilation import compile as compile_module
from thinlens.engine.compiled import Compiled
from thinlens.engine.native import native
from thinlens.engine.on_device import HalfPrecisionNetwork, resolve_device
from thinlens.engine.plan import InputRanges
from thinlens.engine.precision import FAST, find_precision
from thinlens.errors import UsageError, check_choice
from thinlens.models import image_channels

ENGINES = ("auto", "torch", "native")


class SelectedEngine:
    """Maps a plain network to what runs it, and remembers what that was.

    Raises `UsageError` for an unknown engine, and, when called, for native where it was not built.

    >>> make = SelectedEngine("torch")
    >>> _ = make(nn.Identity())
    >>> make.used
    'torch'
    """

    def __init__(
        self,
        engine: str,
        device: str = "cpu",
        precision: str = "fp32",
        input_ranges: InputRanges | None = None,
    ) -> None:
        """Select among `ENGINES`; `device` is one of `DEVICES`, of which native has only the CPU.

        `auto` is the CPU for the engine native and its precisions, else the GPU if torch has one.
        """
        check_choice("engine", engine, ENGINES)
        if precision != FAST:
            find_precision(precision)
        if engine == "torch" and precision != "fp32":
            raise UsageError(f"precision {precision!r}: torch runs fp32; wanted engine native")
        on_cpu = device == "auto" and (engine == "native" or precision != "fp32")
        self._device = resolve_device("cpu" if on_cpu else device)
        if self._device.type != "cpu" and (engine == "native" or precision != "fp32"):
            what = "the engine native" if engine == "native" else f"precision {precision}"
            raise UsageError(f"--device {device}: {what} runs on the CPU; wanted torch")
        self._engine, self._precision, self._ranges = engine, precision, input_ranges
        self._running: list[ImageFunction] = []

    def __call__(self, module: nn.Module) -> ImageFunction:
        running = self._select(module)
        self._running.append(running)
        return running

    @property
    def used(self) -> str:
        """What ran so far: native, torch, or mixed, in turns; several, separated by commas."""
        return ", ".join(sorted({_kind(running) for running in self._running}))

    @property
    def kernel_selection(self) -> str:
        """How the native engine's kernels were selected: heuristic, measured, tuned; several,
        separated by commas; empty where torch alone ran."""
        engines = [running for running in self._running if isinstance(running, Compiled)]
        selections = {engine.policy.selection for engine in engines if engine.policy}
        return ", ".join(sorted(selections - {""}))

    @property
    def precision(self) -> dict[str, Any]:
        """The precision that ran and what was measured of it; empty where fp32 was asked for."""
        if self._precision == "fp32":
            return {}
        engines = [running for running in self._running if isinstance(running, Compiled)]
        reports = [engine.precision_report() for engine in engines] or [{"precision": "fp32"}]
        saturated = [report["saturated"] for report in reports if "saturated" in report]
        total = {"saturated": sum(saturated)} if saturated else {}
        return {"requested": self._precision, **reports[0], **total}

    def _select(self, module: nn.Module) -> ImageFunction:
        if self._device.type != "cpu":
            return HalfPrecisionNetwork(module, self._device)
        least_work = 0.0
        if self._engine == "torch":
            return module
        if self._engine == "auto":
            running = select_engine(module, image_channels(module))
            if self._precision == "fp32" or not isinstance(running, Compiled):
                return running
            least_work = running.least_work
        elif native() is None:
            raise UsageError("engine native: it was not built on this machine; wanted torch")
        ranges = self._ranges
        return compile_module(module, self._precision, input_ranges=ranges, least_work=least_work)


def _kind(running: ImageFunction) -> str:
    if not isinstance(running, Compiled):
        return "torch"
    return "mixed" if running.is_mixed else "native"
