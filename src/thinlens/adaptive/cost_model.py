"""The cost of a tile, in multiply-adds or in milliseconds measured on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch

from thinlens.adaptive.candidates import Candidate, Macs
from thinlens.adaptive.estimator import Estimator, estimate_errors
from thinlens.adaptive.rule import Floats
from thinlens.engine.native import build
from thinlens.engine.timings import TimingCache, cache_folder, cpu_name, measure_interleaved
from thinlens.restoration.network import TILE_BATCH, run_tiles

TileSize = tuple[int, int]
"""(height, width) of a tile with its margin."""

UNITS = {"macs": "multiply-adds", "ms": "milliseconds"}

TILE_ROUNDS = 5
"""Timed runs after one that warms up; the minimum counts."""


@dataclass(frozen=True, eq=False)
class CostModel:
    """The cost of every candidate and of the estimator as functions of a tile's size."""

    unit: str
    """A key of `UNITS`."""
    candidates: Sequence[Callable[[TileSize], float]]
    """The most expensive first."""
    estimator: Callable[[TileSize], float]

    def table(self, sizes: Sequence[TileSize]) -> Floats:
        """Return the cost of every candidate on tiles of these sizes, `[T, n]`."""
        return np.array([[cost(size) for cost in self.candidates] for size in sizes], np.float64)


def macs_model(candidates: Sequence[Candidate], estimator: Macs) -> CostModel:
    """Return costs in multiply-adds."""
    return CostModel("macs", [candidate.macs for candidate in candidates], estimator)


def latency_model(
    candidates: Sequence[Candidate],
    estimator: Estimator,
    tile: TileSize,
    channels: int,
    estimator_key: str,
) -> CostModel:
    """Return costs in milliseconds, proportional to a tile's area; cached on disk.

    They are measured on a batch of tiles. `estimator_key` names the engine and the estimator in the
    cache. Costs never rise from one candidate to the next, cheaper one: a candidate costs at least
    as much as those after it.
    """
    threads, choices = torch.get_num_threads(), range(len(candidates) + 1)
    names = " ".join(candidate.identity for candidate in candidates)
    key = f"{cpu_name()} {build()} {threads} threads {tile} {estimator_key} {names}"
    seconds = _timings().get(key, choices)
    if seconds is None:
        seconds = dict(enumerate(_measured(candidates, estimator, tile, channels)))
        _timings().add(key, seconds)
    area = tile[0] * tile[1]
    per_pixel = [1000 * seconds[index] / area for index in choices]
    falling = np.maximum.accumulate(per_pixel[-2::-1])[::-1].tolist()
    return CostModel("ms", [_by_area(cost) for cost in falling], _by_area(per_pixel[-1]))


def _by_area(per_pixel: float) -> Callable[[TileSize], float]:
    return lambda size: per_pixel * size[0] * size[1]


def _measured(
    candidates: Sequence[Candidate], estimator: Estimator, tile: TileSize, channels: int
) -> list[float]:
    """Return the least seconds a tile of every candidate, then of the estimator."""
    stack = torch.rand(TILE_BATCH, channels, *tile, generator=torch.Generator().manual_seed(0))
    runs = [partial(run_tiles, candidate.network, stack) for candidate in candidates]
    runs.append(partial(estimate_errors, estimator, stack))
    return [min(seconds) / TILE_BATCH for seconds in measure_interleaved(runs, TILE_ROUNDS)]


@cache
def _timings() -> TimingCache:
    return TimingCache(cache_folder() / "tiles-1.json")
