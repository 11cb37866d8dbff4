"""Memory of this machine and of this process; None where a system does not state it (Windows)."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

_MEMORY_INFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/statm")

_RESIDENT_FIELD = 1
"""Of /proc/self/statm, in pages."""


def physical_bytes() -> int | None:
    """Return the bytes of memory that this machine has.

    >>> physical_bytes() is None or physical_bytes() > 2**20
    True
    """
    try:
        return os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    except (AttributeError, ValueError, OSError):  # no such function, no such name
        return None


def free_bytes() -> int | None:
    """Return the bytes that this machine has left; all that it has where only those are known."""
    try:
        fields = dict(line.split(":") for line in _MEMORY_INFO.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        return physical_bytes()


def resident_bytes() -> int | None:
    """Return the bytes of this process that are in memory."""
    try:
        pages = int(_STATUS.read_text().split()[_RESIDENT_FIELD])
    except (OSError, ValueError, IndexError):
        return _peak_resident_bytes()
    return pages * mmap.PAGESIZE


def _peak_resident_bytes() -> int | None:
    """Return the peak, for systems that report nothing else: more than what is in memory now."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
