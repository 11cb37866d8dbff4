"""The engine of a command: torch, native, or for each network the faster one (auto).

On another device than the CPU it is torch, in half precision.
"""

from __future__ import annotations

from torch import nn

from thinlens.engine.automatic import ImageFunction, select_engine
from thinlens.engine.compiled import Compiled
from thinlens.engine.compiled import compile as compile_module
from thinlens.engine.native import native
from thinlens.engine.on_device import HalfPrecisionNetwork, resolve_device
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

    def __init__(self, engine: str, device: str = "cpu") -> None:
        """Select among `ENGINES`; `device` is one of `DEVICES`, of which native has only the CPU.

        `auto` is the CPU for the engine native, else the GPU if torch has one.
        """
        check_choice("engine", engine, ENGINES)
        on_cpu = engine == "native" and device == "auto"
        self._device = resolve_device("cpu" if on_cpu else device)
        if engine == "native" and self._device.type != "cpu":
            raise UsageError(f"--device {device}: the engine native runs on the CPU; wanted torch")
        self._engine = engine
        self._running: list[ImageFunction] = []

    def __call__(self, module: nn.Module) -> ImageFunction:
        running = self._select(module)
        self._running.append(running)
        return running

    @property
    def used(self) -> str:
        """What ran so far: native, torch, or mixed, in turns; several, separated by commas."""
        return ", ".join(sorted({_kind(running) for running in self._running}))

    def _select(self, module: nn.Module) -> ImageFunction:
        if self._device.type != "cpu":
            return HalfPrecisionNetwork(module, self._device)
        if self._engine == "torch":
            return module
        if self._engine == "auto":
            return select_engine(module, image_channels(module))
        if native() is None:
            raise UsageError("engine native: it was not built on this machine; wanted torch")
        return compile_module(module)


def _kind(running: ImageFunction) -> str:
    if not isinstance(running, Compiled):
        return "torch"
    return "mixed" if running.is_mixed else "native"
