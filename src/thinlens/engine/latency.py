"""How many milliseconds does the engine need for every layer at every N?

Networks with the same part of all prunable layers run in turns, whole, so that every layer is
timed among its neighbours and with the threads that will run it; between the parts that were
measured, time is taken to be linear in N.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.errors import UsageError
from thinlens.sparsity.latency_table import Prices
from thinlens.sparsity.masking import attach, prunable_layer, strip
from thinlens.sparsity.pattern import from_ranks
from thinlens.sparsity.prunable import Layer
from thinlens.sparsity.ranks import magnitude_ranks

PARTS = (1 / 32, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
"""Kept of every group in the networks that are timed. The dense kernel takes over near the end."""

LEAST_ROUNDS, MOST_ROUNDS = 4, 12
"""After one that warms up. A median needs some rounds; more than these change it little."""

PATIENCE = 20.0
"""Seconds after which no round beyond the least begins."""

Steps = list[tuple[str, float]]
"""The layer ("" for none) and the seconds of each step of a network."""

Measure = Callable[[Mapping[float, nn.Module], tuple[int, ...], int], Mapping[float, Steps]]
"""Given networks by part, the shape of their input and threads, times their steps."""


def price_layers(
    module: nn.Module,
    layers: Sequence[Layer],
    example: tuple[int, ...],
    threads: int,
    measure: Measure | None = None,
) -> Prices:
    """Time `module`'s prunable `layers` on one input shaped `example` at N = 0..M.

    Raises `UsageError` where the engine cannot run the module.
    """
    prunable = {layer.name: layer.m or 0 for layer in layers if layer.prunable}
    networks = {part: _thinned(module, prunable, part) for part in PARTS}
    found = (measure or step_seconds)(networks, example, threads)
    times = {part: _by_layer(steps) for part, steps in found.items()}
    for name in prunable:
        if any(name not in by_layer for by_layer in times.values()):
            raise UsageError(f"the engine does not run layer {name!r}, so it cannot be timed")
    tables = {
        name: _table(m, {_kept(part, m): times[part][name] for part in PARTS})
        for name, m in prunable.items()
    }
    rests = [sum(s for name, s in steps if name not in prunable) for steps in found.values()]
    _, _, height, width = example
    where = f"{threads} threads, {width}x{height}"
    return Prices(tables, round(float(np.median(rests)) * 1e9), where)


def step_seconds(
    networks: Mapping[float, nn.Module], example: tuple[int, ...], threads: int
) -> dict[float, Steps]:
    """Run the networks in turns by the engine and return each step's median seconds.

    The last step is what a call takes beside them: the output's memory, and Python.
    """
    engines = {part: Compiled(network, threads) for part, network in networks.items()}
    image = torch.rand(1, *example[1:], generator=torch.Generator().manual_seed(0))
    plans = {part: engine.plan(Size(*example[1:])) for part, engine in engines.items()}
    rounds: dict[float, list[list[float]]] = {part: [] for part in engines}
    # Programs of one thread take their steps' times by the same clock.
    clock = time.thread_time if threads == 1 else time.perf_counter
    begin = time.monotonic()
    for done in range(MOST_ROUNDS + 1):
        for part, engine in engines.items():
            start = clock()
            engine(image)
            took = clock() - start
            steps = plans[part].program.seconds()
            rounds[part].append([*steps, max(0.0, took - sum(steps))])
        if done >= LEAST_ROUNDS and time.monotonic() - begin > PATIENCE:
            break
    medians = {part: np.median(rows[1:], axis=0).tolist() for part, rows in rounds.items()}
    return {
        part: list(zip([*plans[part].layers, ""], medians[part], strict=True)) for part in engines
    }


def _thinned(module: nn.Module, prunable: Mapping[str, int], part: float) -> nn.Module:
    """Keep `part` of every group of the prunable layers: the largest weights."""
    thin = copy.deepcopy(module).eval()
    patterns = {}
    for name, m in prunable.items():
        layer = prunable_layer(thin, name)
        patterns[name] = from_ranks(magnitude_ranks(layer.weight, layer, m), _kept(part, m), m)
    attach(thin, patterns)
    return strip(thin)[0]


def _kept(part: float, m: int) -> int:
    return max(1, round(part * m))


def _by_layer(steps: Steps) -> dict[str, float]:
    """Add up the steps of each layer: one that is called twice has two."""
    times: dict[str, float] = {}
    for name, seconds in steps:
        times[name] = times.get(name, 0.0) + seconds
    return times


def _table(m: int, seconds: Mapping[int, float]) -> list[int]:
    """Return the nanoseconds at N = 0..M from some N's seconds."""
    known = sorted(seconds)
    line = np.interp(np.arange(m + 1), known, [seconds[n] * 1e9 for n in known])
    # No N is slower than dense: there the planner takes the dense kernel.
    rising = np.maximum.accumulate(np.minimum(line, seconds[m] * 1e9)).round().astype(int)
    # One nanosecond more for each weight, so that a search never meets a weight without price.
    return [int(cost) + n for n, cost in enumerate(rising)]
