"""Cores that other work of this process uses, and the engine's threads beside it.

Threads of the engine wait for each other at every operation. One that shares its core with an
encoder makes all of them half as fast; without that thread the others go on at their own speed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinlens.engine import _native
    from thinlens.engine.native import Core

_lock = threading.Lock()
_used = 0


@contextmanager
def core_in_use() -> Iterator[None]:
    """Count a core as used by the work of this block, in whichever thread it runs."""
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def threads_beside(threads: int) -> int:
    """Return how many of the engine's threads have a core of their own beside other work.

    At least 1; all of them where there is no such work, even if they are more than the cores.

    >>> with core_in_use():
    ...     threads_beside(1)
    1
    """
    return max(1, min(threads, usable_cores() - _used)) if _used else threads


class ThreadPools:
    """Pools of threads of the engine, by their number."""

    def __init__(self, core: Core, threads: int) -> None:
        self._core, self._threads = core, threads
        self._pools = {threads: core.ThreadPool(threads)}

    def pool(self) -> _native.ThreadPool:
        """Return as many threads as have a core of their own beside other work."""
        threads = threads_beside(self._threads)
        if threads not in self._pools:
            self._pools[threads] = self._core.ThreadPool(threads)
        return self._pools[threads]


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _count(cores: int) -> None:
    global _used  # noqa: PLW0603 - the process has one set of cores
    with _lock:
        _used += cores
