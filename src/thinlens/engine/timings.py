"""Interleaved timing, and an on-disk cache of measured times.

The cache is in `$XDG_CACHE_HOME/thinlens` (by default `~/.cache/thinlens`), which may be deleted at
any time. A damaged file counts as empty; where the folder cannot be written, times are measured
again in every process.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import gettempdir

from thinlens.errors import RunError
from thinlens.files import FileVersion, file_version, read_cached_object, write_json

log = logging.getLogger(__name__)

MAX_CACHED_KEYS = 2048
"""Keys in the cache; the oldest are dropped first."""

MAX_CACHE_BYTES = 4 << 20
"""A larger file is no cache of ours and counts as empty."""

Seconds = dict[int, float]
"""Seconds by choice."""


@dataclass(frozen=True)
class Clock:
    """How time is read and how a pause is made; tests bring their own."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


WALL_CLOCK = Clock()


def measure_interleaved(
    runs: Sequence[Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    pause: float = 0.0,
    clock: Clock = WALL_CLOCK,
    after_round: Callable[[int], object] | None = None,
) -> list[list[float]]:
    """Time `runs` in turns, and return the seconds of every round, by run.

    `warmup` rounds before are not timed: first plans, page faults, clocks that rise. Each round
    begins with another run, so that none always follows the same one, and `pause` seconds pass
    before each run, so that spinning threads of the previous one park. `after_round` is called
    with the number of timed rounds; measuring ends early where it returns True.
    """
    for _ in range(warmup):
        for run in runs:
            run()
    seconds: list[list[float]] = [[] for _ in runs]
    for number in range(rounds):
        first = number % max(1, len(runs))
        for index in [*range(first, len(runs)), *range(first)]:
            if pause:
                clock.sleep(pause)
            begin = clock.now()
            runs[index]()
            seconds[index].append(clock.now() - begin)
        if after_round is not None and after_round(number + 1) is True:
            break
    return seconds


def cache_folder() -> Path:
    """Return the folder of everything that thinlens can compute again."""
    variable = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a path that is not absolute is ignored.
    if Path(variable).is_absolute():
        return Path(variable) / "thinlens"
    try:
        return Path.home() / ".cache" / "thinlens"
    except RuntimeError:  # a container's user without an entry in passwd, and no HOME
        return Path(gettempdir()) / f"thinlens-{os.getuid()}"


@cache
def cpu_name() -> str:
    """Return the processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class TimingCache:
    """A bounded table on disk: by key, the seconds of each choice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Seconds] | None = None
        self._state: FileVersion = None

    def get(self, key: str, choices: Sequence[int]) -> Seconds | None:
        """Return the seconds of all `choices`, or None where one was not measured."""
        if self._entries is None:
            self._entries = _read(self._path)
        seconds = self._entries.get(key)
        return seconds if seconds is not None and seconds.keys() >= set(choices) else None

    def add(self, key: str, seconds: Mapping[int, float]) -> None:
        """Store times here and on disk, beside those that other processes stored."""
        entries = dict(self._entries or {})
        if self._entries is None or file_version(self._path) != self._state:
            entries = {**_read(self._path), **entries}
        entries.pop(key, None)
        entries[key] = dict(seconds)
        self._entries = dict(list(entries.items())[-MAX_CACHED_KEYS:])
        try:
            write_json(self._path, self._entries, indent=None)
        except RunError as error:
            log.debug("%s: measured again next time", error)
        self._state = file_version(self._path)


def _read(path: Path) -> dict[str, Seconds]:
    """Return the valid entries of the file."""
    content = read_cached_object(path, MAX_CACHE_BYTES)
    entries = {key: _entry(value) for key, value in content.items()}
    return {key: value for key, value in entries.items() if value}


def _entry(value: object) -> Seconds:
    """Return the seconds by choice, or nothing where one of them is no time."""
    if not isinstance(value, dict):
        return {}
    entry: Seconds = {}
    for choice, seconds in value.items():
        plain = re.fullmatch(r"-?[0-9]{1,6}", choice) and type(seconds) is float
        if not plain or not 0 <= seconds < math.inf:
            return {}
        entry[int(choice)] = seconds
    return entry
