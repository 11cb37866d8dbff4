"""Networks on a GPU: a copy in half precision and channels-last that torch runs.

Only the CPU has the native engine. Half precision has 11 bits: results differ by less than half a
level of 8 bits where activations are small. A network whose activations exceed the range of half
precision gives NaN or infinity; it then runs in float32 from there on.
"""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError, check_choice

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
"""Values of `--device`; auto: the first of the others that torch has, else the CPU."""

_GPUS = ("cuda", "xpu", "mps")


def resolve_device(name: str) -> torch.device:
    """Return the device that `--device` stands for; `UsageError` where torch does not have it.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    check_choice("--device", name, DEVICES)
    present = [kind for kind in _GPUS if _is_present(kind)]
    if name == "auto":
        return torch.device(present[0] if present else "cpu")
    if name != "cpu" and name not in present:
        raise UsageError(f"--device {name}: torch has none on this machine; wanted auto or cpu")
    return torch.device(name)


def _is_present(kind: str) -> bool:
    backend = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
    return bool(backend is not None and backend.is_available())


class HalfPrecisionNetwork(nn.Module):
    """A copy of a network on a device, which maps images `[B, C, H, W]` there to results there."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        self._running = _copied(module, device, torch.float16)
        self._original = [module]  # in a list, as its weights are none of this module's
        self._device = device

    @property
    def module(self) -> nn.Module:
        """The network that was copied; fingerprints are its."""
        return self._original[0]

    def forward(self, image: Tensor) -> Tensor:
        """Run the network; in float32 if half precision does not hold its values."""
        output = self._run(image)
        if output.dtype != torch.float16 or torch.isfinite(output).all():
            return output
        log.warning("half precision does not hold this network's values: float32 from here on")
        self._running = _copied(self.module, self._device, torch.float32)
        return self._run(image.float())

    def _run(self, image: Tensor) -> Tensor:
        output: Tensor = self._running(image.to(memory_format=torch.channels_last))
        return output


def _copied(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return a copy in evaluation mode."""
    copied = copy.deepcopy(module).eval()
    return copied.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
