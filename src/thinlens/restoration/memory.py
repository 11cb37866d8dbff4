"""How large a piece of an image goes through a network on this machine?"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.errors import UsageError
from thinlens.restoration.network import Network, device_of

WORKSPACE = 1.6
"""Peak memory over the modules' outputs alive: functions leave some too, and convolutions copy to
blocked layouts. Measured on a CPU with oneDNN: EDSR 1.16, RFDN 1.37, DnCNN 1.50, CARN 1.52,
rfdn-aim 1.53."""

PROBE = 32
"""Side of the image whose memory is counted; a convolutional network's grows with the area."""

ENGINE_PROBE = 256
"""The same for the native engine, which rounds rows up to whole vectors."""

SMALL = 256
"""Images up to this side squared are not probed: even EDSR's 256 channels at x4 take 1 GiB."""

_MEMORY_INFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


TILE_BYTES = 2**30
"""The most memory that a tile is given: larger ones are hardly faster."""

STEP = 16
"""Sides of tiles are multiples of it, so that they do not follow every free byte."""


def largest_tile(network: Network, shape: torch.Size, margin: Callable[[], int]) -> int | None:
    """Return the side of the largest cores for a batch of `shape` `[B, C, h, w]`; None: no cut.

    A tile and its margin, asked for only if the image must be cut, take half of what is free and
    at most `TILE_BYTES`. Raises a `UsageError` if that is no room for a tile as large as the
    margin. Where the system does not say what is free, `TILE_BYTES` counts alone.
    """
    area = shape[-2] * shape[-1]
    if area <= SMALL**2:
        return None
    needed, there = peak_bytes(network, shape), available_bytes(device_of(network))
    room = TILE_BYTES if there is None else min(TILE_BYTES, there // 2)
    if needed <= room:
        return None
    around = margin()
    edge = (math.isqrt(int(room * area / needed)) - 2 * around) // STEP * STEP
    if edge < max(STEP, around):
        raise UsageError(
            f"an image of {shape[-1]}x{shape[-2]} needs about {needed / 2**30:.1f} GiB as a whole, "
            f"and the {room / 2**30:.1f} GiB that are free leave no room for tiles with a margin "
            f"of {around} pixels: wanted more memory"
        )
    return edge


def peak_bytes(network: Network, shape: torch.Size) -> int:
    """Estimate the most memory that a forward on a batch of `shape` `[B, C, h, w]` holds at once.

    The modules' outputs alive during a small forward are added up and scaled by the area; an
    engine says itself what it takes. 0 for what computes outside both.
    """
    area = shape[-2] * shape[-1]
    if isinstance(network, Compiled):
        taken = network.plan(Size(shape[1], ENGINE_PROBE, ENGINE_PROBE)).bytes
        return taken * area // ENGINE_PROBE**2
    probe = torch.zeros(*shape[:2], PROBE, PROBE, device=device_of(network))
    live = _LiveBytes()
    hook = register_module_forward_hook(live.note)
    try:
        with torch.inference_mode():
            network(probe)
    finally:
        hook.remove()
    return int(live.peak * WORKSPACE * area / PROBE**2)


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
