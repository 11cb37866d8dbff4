"""How long do things take, and where is that remembered, so that it is measured once?

In `$XDG_CACHE_HOME/thinlens` (by default `~/.cache/thinlens`), which may be deleted at any time. A
damaged file counts as empty, a folder that cannot be written is done without.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from thinlens.errors import RunError
from thinlens.files import write_json

log = logging.getLogger(__name__)

MOST_ENTRIES = 2048
"""The oldest are forgotten first."""

MOST_BYTES = 4 << 20
"""A larger file is not ours."""

Seconds = dict[int, float]
"""By choice."""


def least_in_turns(runs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the least seconds of each run of `rounds`, after one that warms up, in turns."""
    least = [float("inf")] * len(runs)
    for number in range(rounds + 1):
        for index, run in enumerate(runs):
            begin = time.perf_counter()
            run()
            if number:
                least[index] = min(least[index], time.perf_counter() - begin)
    return least


def folder() -> Path:
    """Return the folder of everything that thinlens can find again when it is lost."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a path that is not absolute is ignored.
    root = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return root / "thinlens"


@cache
def cpu() -> str:
    """Name the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class Timings:
    """A bounded table on disk: by key, the seconds of each choice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Seconds] | None = None

    def get(self, key: str, choices: Sequence[int]) -> Seconds | None:
        """Return the seconds of all `choices`, or None where one is not known."""
        if self._known is None:
            self._known = _read(self._path)
        seconds = self._known.get(key)
        return seconds if seconds is not None and seconds.keys() >= set(choices) else None

    def add(self, key: str, seconds: Mapping[int, float]) -> None:
        """Remember here and on disk; what other processes have added meanwhile stays."""
        known = {**_read(self._path), **(self._known or {})}
        known.pop(key, None)
        known[key] = dict(seconds)
        self._known = dict(list(known.items())[-MOST_ENTRIES:])
        try:
            write_json(self._path, self._known)
        except RunError as error:
            log.debug("%s: measured again next time", error)


def _read(path: Path) -> dict[str, Seconds]:
    """Return the entries of the file that make sense."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    entries = {key: _entry(value) for key, value in content.items()}
    return {key: value for key, value in entries.items() if value}


def _entry(value: object) -> Seconds:
    """Return the seconds by choice, or nothing where one of them is no time."""
    if not isinstance(value, dict):
        return {}
    seconds: Seconds = {}
    for choice, took in value.items():
        plain = re.fullmatch(r"[0-9]{1,6}", choice) and type(took) is float
        if not plain or not 0 <= took < math.inf:
            return {}
        seconds[int(choice)] = took
    return seconds
