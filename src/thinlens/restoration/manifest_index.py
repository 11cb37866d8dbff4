"""Where the last line of every input is, in several manifests: 16 bytes a line in memory."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from thinlens.files import JsonLines

_KEY_BYTES = 8
"""Of the hash of an input's name. Two names of one hash differ in their lines: the earlier
line is then not seen, and its image restored again."""

_START_BITS = 48
"""Of the position of a line: the byte where it begins; the others are the manifest's number."""


class ManifestIndex:
    """The lines of manifests, of which the last one of an input counts, without their contents.

    Ten million lines take 160 MB, and twice that while they are read.
    """

    def __init__(self, logs: Sequence[JsonLines]) -> None:
        self._logs = list(logs)
        keys, places = array("Q"), array("Q")
        lines = 0
        for number, log in enumerate(logs):
            for start, line in log.added():
                lines += 1
                if isinstance(line.get("path"), str):
                    keys.append(_key(line["path"]))
                    places.append(number << _START_BITS | start)
        self._keys, self._places = _last_of_each(keys, places)
        self.is_compact = len(self._keys) == lines and all(log.is_whole for log in logs)
        """Whether no line is damaged or replaced by a later one."""
        self._recent: dict[str, int] = {}
        """Places of lines that were added since."""

    def added(self) -> Iterator[dict[str, Any]]:
        """Yield the lines that other processes have added, and see them from then on."""
        for number, log in enumerate(self._logs):
            for start, line in log.added():
                if isinstance(line.get("path"), str):
                    yield line
                    self._recent[line["path"]] = number << _START_BITS | start

    def start_log(self, log: JsonLines) -> None:
        """Add the next lines to another manifest."""
        self._logs.append(log)

    def append(self, line: dict[str, Any]) -> None:
        """Add a line to the last manifest; `RunError` where it cannot be written."""
        number = len(self._logs) - 1
        self._recent[line["path"]] = number << _START_BITS | self._logs[number].append(line)

    def get(self, name: str) -> dict[str, Any] | None:
        """Return the last line of an input, read from its manifest."""
        place = self._recent.get(name)
        if place is None:
            key = np.uint64(_key(name))
            at = int(np.searchsorted(self._keys, key))
            if at == len(self._keys) or self._keys[at] != key:
                return None
            place = int(self._places[at])
        line = self._logs[place >> _START_BITS].at(place & (1 << _START_BITS) - 1)
        return line if line is not None and line.get("path") == name else None

    def last_lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines that no later one replaces, in their order."""
        places = np.sort(self._places)
        numbers = places >> np.uint64(_START_BITS)
        for number, log in enumerate(self._logs):
            starts = places[numbers == number] & np.uint64((1 << _START_BITS) - 1)
            yield from log.all_at(map(int, starts))


def _key(name: str) -> int:
    digest = hashlib.blake2b(os.fsencode(name), digest_size=_KEY_BYTES).digest()
    return int.from_bytes(digest)


def _last_of_each(keys: array[int], places: array[int]) -> tuple[Any, Any]:
    """Return the keys in order, each once, and the last of its places."""
    unsorted = np.frombuffer(keys, np.uint64)
    order = np.argsort(unsorted, kind="stable")
    ordered = unsorted[order]
    last = np.append(ordered[1:] != ordered[:-1], True) if len(ordered) else np.zeros(0, bool)
    return ordered[last], np.frombuffer(places, np.uint64)[order[last]]
