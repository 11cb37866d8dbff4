"""Learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]
"""A factor of the learning rate as a function of progress in [0, 1)."""

FLAT_SHARE = 0.6
"""The fraction of a trapezoid that is flat. Rates in it do not depend on the run's length, so a run
stopped there and resumed with more steps equals the longer run from the start."""


def cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def trapezoid(progress: float) -> float:
    """Stay at 1, then fall to 0 in a straight line."""
    return min(1.0, (1 - progress) / (1 - FLAT_SHARE))


def halve_once(progress: float) -> float:
    """Halve once at two thirds of the run: SLS's epoch 200 of 300."""
    return 1.0 if progress < 2 / 3 else 0.5


def three_halvings(progress: float) -> float:
    """Halve at 50, 75 and 90 % of the run, as the deblurring framework of SLS's authors does."""
    return 0.5 ** sum(progress >= mark for mark in (0.5, 0.75, 0.9))


def constant(progress: float) -> float:
    """Stay at 1."""
    return 1.0


SCHEDULES: dict[str, Schedule] = {
    "cosine": cosine,
    "trapezoid": trapezoid,
    "step": halve_once,
    "halvings": three_halvings,
    "constant": constant,
}
