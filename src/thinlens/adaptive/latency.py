"""How long do routed images take, all in all, beside those of one network?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.whole import restore_image
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.task import Task

ROUNDS = 3
"""After one that warms up, in which an engine plans for the size."""

Progress = Callable[[int, int, Mapping[str, float]], None]


def mean_latency_ms(
    ways: Mapping[str, Network | Restorer],
    task: Task,
    folder: Path,
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> dict[str, float | None]:
    """Return the mean milliseconds of an image by each of some ways to restore a test folder.

    From the input in memory to the result in memory: estimates, choices and joining included. The
    ways take turns on every image, and of each the median of some rounds counts; None without any.
    """
    if not rounds:
        return dict.fromkeys(ways)
    pairs = open_pairs(folder, task)
    totals = dict.fromkeys(ways, 0.0)
    for index, pair in enumerate(pairs):
        image, _ = read_pair(pair, task, index, seed)
        for name, seconds in _turns(ways, task, image, rounds).items():
            totals[name] += float(np.median(seconds)) * 1000
        if progress:
            progress(index + 1, len(pairs), {})
    return {name: total / len(pairs) for name, total in totals.items()}


def _turns(
    ways: Mapping[str, Network | Restorer], task: Task, image: Tensor, rounds: int
) -> dict[str, Sequence[float]]:
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            restore_image(way, image, task.channels)
            if turn:
                found[name].append(time.perf_counter() - begun)
    return {name: tuple(seconds) for name, seconds in found.items()}
