"""Where in one arena does each buffer lie, so that memory is used again and again?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 1024
"""Floats (4 KiB)."""


@dataclass(frozen=True)
class Lifetime:
    """A buffer's size, and the first and last step that touches it."""

    floats: int
    first: int
    last: int


def place(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Return an offset for each buffer and the arena's size, in floats.

    Buffers that live at the same time never overlap. Large ones are placed first, each at the
    lowest place that is free.
    """
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for index in sorted(range(len(lifetimes)), key=lambda i: -lifetimes[i].floats):
        mine = lifetimes[index]
        others = [i for i in placed if _meet(lifetimes[i], mine)]
        start = 0
        for other in sorted(others, key=lambda i: offsets[i]):
            if start + mine.floats <= offsets[other]:
                break
            start = max(start, _aligned(offsets[other] + lifetimes[other].floats))
        offsets[index] = start
        placed.append(index)
    total = max(
        (start + life.floats for start, life in zip(offsets, lifetimes, strict=True)), default=1
    )
    return offsets, total


def _meet(a: Lifetime, b: Lifetime) -> bool:
    return a.first <= b.last and b.first <= a.last


def _aligned(floats: int) -> int:
    return -(-floats // ALIGNMENT) * ALIGNMENT
