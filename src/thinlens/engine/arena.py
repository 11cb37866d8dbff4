"""Memory planning: an offset in one arena for every buffer, shared by disjoint lifetimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 1024
"""Multiple that offsets are, in floats: 4 KiB, a page."""


@dataclass(frozen=True)
class Lifetime:
    """A buffer's size, and the first and last step that touches it."""

    floats: int
    first: int
    last: int


def assign_offsets(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Return an offset for each buffer and the arena's size, in floats.

    Buffers whose lifetimes overlap never share memory. Greedy by size: the largest first, each at
    the lowest offset that is free.
    """
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for index in sorted(range(len(lifetimes)), key=lambda i: -lifetimes[i].floats):
        lifetime = lifetimes[index]
        others = [i for i in placed if _overlap(lifetimes[i], lifetime)]
        start = 0
        for other in sorted(others, key=lambda i: offsets[i]):
            if start + lifetime.floats <= offsets[other]:
                break
            start = max(start, _aligned(offsets[other] + lifetimes[other].floats))
        offsets[index] = start
        placed.append(index)
    total = max(
        (start + life.floats for start, life in zip(offsets, lifetimes, strict=True)), default=1
    )
    return offsets, total


def _overlap(a: Lifetime, b: Lifetime) -> bool:
    return a.first <= b.last and b.first <= a.last


def _aligned(floats: int) -> int:
    return -(-floats // ALIGNMENT) * ALIGNMENT
