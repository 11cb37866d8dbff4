"""Will a whole image go through a network on this machine?"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from thinlens.errors import UsageError

WORKSPACE = 1.6
"""Peak memory over the modules' outputs alive: functions leave some too, and convolutions copy to
blocked layouts. Measured on a CPU with oneDNN: EDSR 1.16, RFDN 1.37, DnCNN 1.50, CARN 1.52,
rfdn-aim 1.53."""

PROBE = 32
"""Side of the image whose memory is counted; a convolutional network's grows with the area."""

SMALL = 256
"""Images up to this side squared are not probed: even EDSR's 256 channels at x4 take 1 GiB."""

_MEMORY_INFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def check_fits(network: Callable[[Tensor], Tensor], image: Tensor) -> None:
    """Raise a `UsageError` if `image` `[B, C, h, w]` needs more memory than there is.

    Where the system does not say what is free, or the network computes outside torch, all pass.
    """
    height, width = image.shape[-2:]
    if height * width <= SMALL**2:
        return
    needed, there = peak_bytes(network, image), available_bytes(image.device)
    if there is not None and needed > there:
        raise UsageError(
            f"an image of {width}x{height} needs about {needed / 2**30:.1f} GiB as a whole and "
            f"{there / 2**30:.1f} GiB are free: wanted a smaller image or more memory"
        )


def peak_bytes(network: Callable[[Tensor], Tensor], image: Tensor) -> int:
    """Estimate the most memory that a forward on `image` `[B, C, h, w]` holds at once.

    The modules' outputs alive during a small forward are added up and scaled by the area.
    """
    height, width = image.shape[-2:]
    probe = image.new_zeros(*image.shape[:2], PROBE, PROBE)
    live = _LiveBytes()
    hook = register_module_forward_hook(live.note)
    try:
        with torch.inference_mode():
            network(probe)
    finally:
        hook.remove()
    return int(live.peak * WORKSPACE * height * width / PROBE**2)


def available_bytes(device: torch.device) -> int | None:
    """Return the memory that a process may still take, or None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [_machine_free(), _group_free()]
    return min((limit for limit in limits if limit is not None), default=None)


class _LiveBytes:
    """Counts the bytes of the modules' outputs that are alive, and the most of them."""

    def __init__(self) -> None:
        self._alive: dict[int, int] = {}
        self.peak = 0

    def note(self, module: nn.Module, inputs: object, output: object) -> None:
        """Take part in a forward as a hook of every module."""
        if isinstance(output, Tensor) and id(output) not in self._alive:
            self._alive[id(output)] = output.nbytes
            weakref.finalize(output, self._alive.pop, id(output))
            self.peak = max(self.peak, sum(self._alive.values()))


def _machine_free() -> int | None:
    if _MEMORY_INFO.exists():
        fields = dict(line.split(":") for line in _MEMORY_INFO.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _group_free() -> int | None:
    """Return what the container's control group (version 2) leaves, if it limits memory."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        # The file cache counts as used but makes room when asked.
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        statistics = dict(line.split() for line in lines)
    except OSError:
        return None
    return None if limit == "max" else int(limit) - used + int(statistics["inactive_file"])
