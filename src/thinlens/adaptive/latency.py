"""End-to-end latency of restorers and networks on a test folder, measured interleaved."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from thinlens.engine.timings import measure_interleaved
from thinlens.progress import Progress
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.tiled import restore_image
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.task import Task

LATENCY_ROUNDS = 3
"""Timed rounds after one that warms up, in which an engine plans for the size."""


def mean_latency_ms(
    restorers: Mapping[str, Network | Restorer],
    task: Task,
    folder: Path,
    *,
    seed: int = 0,
    rounds: int = LATENCY_ROUNDS,
    progress: Progress | None = None,
) -> dict[str, float | None]:
    """Return the mean milliseconds an image of each restorer on a test folder.

    From the input in memory to the result in memory: estimation, selection and stitching included.
    For each image the median of `rounds` interleaved rounds counts; None where `rounds` is 0.
    """
    if not rounds:
        return dict.fromkeys(restorers)
    pairs = open_pairs(folder, task)
    totals = dict.fromkeys(restorers, 0.0)
    for index, pair in enumerate(pairs):
        image, _ = read_pair(pair, task, index, seed)
        runs = [partial(restore_image, x, image, task.channels) for x in restorers.values()]
        for name, seconds in zip(restorers, measure_interleaved(runs, rounds), strict=True):
            totals[name] += float(np.median(seconds)) * 1000
        if progress:
            progress(index + 1, len(pairs), {})
    return {name: total / len(pairs) for name, total in totals.items()}
