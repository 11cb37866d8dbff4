"""Convex envelope of a cost table: the largest convex costs that are nowhere higher.

Measured times have plateaus: from some N on a layer runs as a dense one, and more weights cost
nothing. The slope there shows no search that fewer weights are cheaper; the envelope's does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def convex_envelope(costs: Sequence[float]) -> list[float]:
    """Return the envelope at N = 0..M of the costs at N = 0..M.

    >>> convex_envelope([0, 6, 8, 8, 8])
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    hull = [0]
    for n in range(1, len(costs)):
        while len(hull) > 1 and _is_above(costs, hull[-2], hull[-1], n):
            hull.pop()
        hull.append(n)
    envelope: list[float] = np.interp(
        np.arange(len(costs)), hull, [costs[n] for n in hull]
    ).tolist()
    return envelope


def _is_above(costs: Sequence[float], left: int, middle: int, right: int) -> bool:
    """Return whether the middle is on or above the line from left to right."""
    rise = (costs[right] - costs[left]) * (middle - left)
    return (costs[middle] - costs[left]) * (right - left) >= rise
