"""Free memory: of the machine, of the control groups of this process, and of a GPU.

Control groups (cgroups) are how containers and service managers limit memory. A process counts in
its own group and in all those around it, so that the least of their free bytes counts. In version 1
the limits of memory are a hierarchy of their own; both versions may be mounted.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from thinlens import machine_memory

_MEMBERSHIP = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's `mallopt` (malloc.h)."""

LARGE_BLOCK = 2**20
"""Bytes from which a block of a budgeted process is returned to the system when it is freed."""


@dataclass(frozen=True)
class _GroupFiles:
    """Names of the files of a control group."""

    limit: str
    used: str
    statistics: str
    cache: str
    """The line of the file cache, which counts as used and which the kernel frees on demand."""


_VERSION_2 = _GroupFiles("memory.max", "memory.current", "memory.stat", "inactive_file")
_VERSION_1 = _GroupFiles(
    "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file"
)

_CONTROLLER = "memory"
"""The name of version 1's hierarchy, and of its folder."""


def available_bytes(device: torch.device) -> int | None:
    """Return the bytes that this process can still allocate, or None where the system does not
    report them."""
    if device.type in ("cuda", "xpu"):
        free, _ = getattr(torch, device.type).mem_get_info(device)
        return int(free)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    limits = [machine_memory.free_bytes(), group_free_bytes()]
    return min((limit for limit in limits if limit is not None), default=None)


def release_cached(device: torch.device) -> None:
    """Give memory that torch keeps on a GPU for later back; nothing on the CPU."""
    if device.type != "cpu":
        getattr(torch, device.type).empty_cache()


def return_large_blocks() -> None:
    """Make the C library return blocks of `LARGE_BLOCK` bytes to the system when they are freed.

    glibc otherwise keeps blocks of up to 32 MiB, in one heap for each thread, so that the peak of
    the same work differs by hundreds of megabytes from run to run. Nothing on other systems.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(_TRIM_THRESHOLD, LARGE_BLOCK)


def group_free_bytes(mount: Path = _MOUNT, membership: Path = _MEMBERSHIP) -> int | None:
    """Return the free bytes of the control groups around this process; None without a limit.

    `membership` lists its groups as /proc/self/cgroup does: `0::/a/b` (version 2),
    `9:memory:/a/b` (version 1).
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    free: list[int] = []
    for line in ["0::/", f"0:{_CONTROLLER}:/", *lines]:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            free += _free_of_groups(mount, path, _VERSION_2)
        elif _CONTROLLER in controllers.split(","):
            free += _free_of_groups(mount / _CONTROLLER, path, _VERSION_1)
    return min(free, default=None)


def _free_of_groups(root: Path, path: str, files: _GroupFiles) -> list[int]:
    """Return the free bytes of a group and of those around it that have a limit."""
    group = root / path.strip("/")
    groups = [group, *(parent for parent in group.parents if root in (parent, *parent.parents))]
    return [free for folder in groups if (free := _free_of_group(folder, files)) is not None]


def _free_of_group(folder: Path, files: _GroupFiles) -> int | None:
    try:
        limit = (folder / files.limit).read_text().strip()
        used = int((folder / files.used).read_text())
        lines = (folder / files.statistics).read_text().splitlines()
        cache = dict(line.split() for line in lines).get(files.cache, "0")
        # version 1 has a number that no machine has in place of "max"
        return None if limit == "max" else int(limit) - used + int(cache)
    except (OSError, ValueError):
        return None
