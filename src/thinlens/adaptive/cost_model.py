"""What does a tile cost: in multiply-adds, or in milliseconds on this machine?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch

from thinlens.adaptive.candidates import Candidate, Macs
from thinlens.adaptive.estimator import Estimator, estimate_errors
from thinlens.adaptive.rule import Floats
from thinlens.adaptive.tile_errors import TILE_BATCH, run_tiles
from thinlens.engine.native import build
from thinlens.engine.timings import Timings, cpu, folder, least_in_turns

Size = tuple[int, int]
"""(height, width) of a tile with its margin."""

UNITS = {"macs": "multiply-adds", "ms": "milliseconds"}

ROUNDS = 5
"""Timed runs after one that warms up; the least counts."""


@dataclass(frozen=True, eq=False)
class CostModel:
    """What candidates and the estimator cost on a tile, the dearest first."""

    unit: str
    candidates: Sequence[Callable[[Size], float]]
    estimator: Callable[[Size], float]

    def of(self, sizes: Sequence[Size]) -> Floats:
        """Return what every candidate costs on tiles of these sizes, `[T, n]`."""
        return np.array([[price(size) for price in self.candidates] for size in sizes], np.float64)


def macs_model(candidates: Sequence[Candidate], estimator: Macs) -> CostModel:
    """Price tiles by their multiply-adds."""
    return CostModel("macs", [candidate.macs for candidate in candidates], estimator)


def latency_model(
    candidates: Sequence[Candidate], estimator: Estimator, tile: Size, channels: int, mark: str
) -> CostModel:
    """Price tiles by milliseconds a pixel, measured on a batch of them and remembered on disk.

    `mark` names the estimator and the engine. A candidate that comes out dearer than the one
    before it costs as much as that: candidates stand in the order of their costs.
    """
    threads, choices = torch.get_num_threads(), range(len(candidates) + 1)
    names = " ".join(candidate.identity for candidate in candidates)
    key = f"{cpu()} {build()} {threads} threads {tile} {mark} {names}"
    seconds = _timings().get(key, choices)
    if seconds is None:
        seconds = dict(enumerate(_measured(candidates, estimator, tile, channels)))
        _timings().add(key, seconds)
    area = tile[0] * tile[1]
    per_pixel = [1000 * seconds[index] / area for index in choices]
    falling = np.maximum.accumulate(per_pixel[-2::-1])[::-1].tolist()
    return CostModel("ms", [_by_area(price) for price in falling], _by_area(per_pixel[-1]))


def _by_area(price: float) -> Callable[[Size], float]:
    return lambda size: price * size[0] * size[1]


def _measured(
    candidates: Sequence[Candidate], estimator: Estimator, tile: Size, channels: int
) -> list[float]:
    """Return the least seconds a tile of every candidate, then of the estimator, in turns."""
    stack = torch.rand(TILE_BATCH, channels, *tile, generator=torch.Generator().manual_seed(0))
    runs = [partial(run_tiles, candidate.network, stack) for candidate in candidates]
    runs.append(partial(estimate_errors, estimator, stack))
    return [seconds / TILE_BATCH for seconds in least_in_turns(runs, ROUNDS)]


@cache
def _timings() -> Timings:
    return Timings(folder() / "tiles-1.json")
