"""Latency table: nanoseconds of every prunable layer in the engine at every N.

Networks with the same fraction of all prunable layers kept run interleaved and whole, so that every
layer is timed among its neighbours and with the threads that will run it, by the fastest kernel
for its weights, dense ones included; between the fractions, latency is interpolated linearly in N.
From where a dense kernel is faster, a layer's latency rises no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.kernel_choice import DENSE, WINOGRAD, KernelChoice
from thinlens.engine.native import fastest
from thinlens.engine.timings import Clock, measure_interleaved
from thinlens.engine.tuner import tuner
from thinlens.errors import UsageError
from thinlens.models.copying import copy_network
from thinlens.sparsity.latency_table import LatencyTable
from thinlens.sparsity.masking import attach, prunable_layer, strip
from thinlens.sparsity.pattern import pattern_from_ranks
from thinlens.sparsity.prunable import Layer
from thinlens.sparsity.ranks import magnitude_ranks

FRACTIONS = (1 / 32, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
"""Fractions of every group that the timed networks keep. A dense kernel takes over at 1/4 to 1."""

MIN_LATENCY_ROUNDS, MAX_LATENCY_ROUNDS = 4, 12
"""Timed rounds, after one of warm-up. A median needs some; more than these change it little."""

MAX_LATENCY_SECONDS = 20.0
"""Seconds after which no round beyond the fewest begins."""

StepTimes = list[tuple[str, float]]
"""The layer ("" for none) and the seconds of each step of a network."""

StepTimer = Callable[[Mapping[float, nn.Module], tuple[int, ...], int], Mapping[float, StepTimes]]
"""Return the step times of networks by fraction, for the shape of their input and threads."""


def measure_latency_table(
    module: nn.Module,
    layers: Sequence[Layer],
    example: tuple[int, ...],
    threads: int,
    timer: StepTimer | None = None,
) -> LatencyTable:
    """Time `module`'s prunable `layers` on one input shaped `example` at N = 0..M.

    Raises `UsageError` where the engine cannot run the module.
    """
    prunable = {layer.name: layer.m or 0 for layer in layers if layer.prunable}
    networks = {fraction: _pruned(module, prunable, fraction) for fraction in FRACTIONS}
    step_times = (timer or measure_steps)(networks, example, threads)
    times = {fraction: _by_layer(steps) for fraction, steps in step_times.items()}
    for name in prunable:
        if any(name not in by_layer for by_layer in times.values()):
            raise UsageError(f"the engine does not run layer {name!r}, so it cannot be timed")
    tables = {
        name: _layer_table(m, {_kept(x, m): times[x][name] for x in FRACTIONS})
        for name, m in prunable.items()
    }
    rests = [
        sum(seconds for name, seconds in steps if name not in prunable)
        for steps in step_times.values()
    ]
    _, _, height, width = example
    conditions = f"{threads} threads, {width}x{height}"
    return LatencyTable(tables, round(float(np.median(rests)) * 1e9), conditions)


def measure_steps(
    networks: Mapping[float, nn.Module], example: tuple[int, ...], threads: int
) -> dict[float, StepTimes]:
    """Run the networks interleaved in the engine and return each step's median seconds.

    The last step is the rest of a call: the output's memory, and Python.
    """
    measured = tuner(fastest())
    engines = {
        fraction: Compiled(network, threads, kernel_selector=measured)
        for fraction, network in networks.items()
    }
    image = torch.rand(1, *example[1:], generator=torch.Generator().manual_seed(0))
    plans = {fraction: engine.plan(Size(*example[1:])) for fraction, engine in engines.items()}
    step_rounds: dict[float, list[list[float]]] = {fraction: [] for fraction in engines}

    def runner(fraction: float) -> Callable[[], None]:
        def run() -> None:
            engines[fraction](image)
            step_rounds[fraction].append(plans[fraction].program.seconds())

        return run

    begin = time.monotonic()
    call_rounds = measure_interleaved(
        [runner(fraction) for fraction in engines],
        MAX_LATENCY_ROUNDS,
        # Programs of one thread time their steps by the same clock.
        clock=Clock(now=time.thread_time if threads == 1 else time.perf_counter),
        after_round=lambda done: (
            done >= MIN_LATENCY_ROUNDS and time.monotonic() - begin > MAX_LATENCY_SECONDS
        ),
    )
    medians: dict[float, list[float]] = {}
    for (fraction, steps), calls in zip(step_rounds.items(), call_rounds, strict=True):
        rounds = [
            [*seconds, max(0.0, call - sum(seconds))]
            for seconds, call in zip(steps[-len(calls) :], calls, strict=True)
        ]
        medians[fraction] = np.median(rounds, axis=0).tolist()
    pool_dense_times(medians, {fraction: plan.kernels for fraction, plan in plans.items()})
    return {
        fraction: list(zip([*plans[fraction].layers, ""], seconds, strict=True))
        for fraction, seconds in medians.items()
    }


def pool_dense_times(
    seconds: Mapping[float, list[float]], kernels: Mapping[float, Mapping[int, KernelChoice]]
) -> None:
    """Let steps that a dense kernel runs, whatever the fraction, take the same time: the median.

    `seconds` are by fraction and step, `kernels` those of the steps that are convolutions. Zeros
    change nothing there, so that differences are noise.

    >>> seconds = {0.5: [1.0], 0.75: [3.0], 1.0: [2.0]}
    >>> pool_dense_times(seconds, {0.5: {0: 16}, 0.75: {0: DENSE}, 1.0: {0: DENSE}})
    >>> seconds
    {0.5: [1.0], 0.75: [2.5], 1.0: [2.5]}
    """
    for step in range(min(map(len, seconds.values()))):
        for kernel in (DENSE, WINOGRAD):
            alike = [x for x in seconds if kernels[x].get(step) == kernel]
            if alike:
                pooled = float(np.median([seconds[x][step] for x in alike]))
                for fraction in alike:
                    seconds[fraction][step] = pooled


def _pruned(module: nn.Module, prunable: Mapping[str, int], fraction: float) -> nn.Module:
    """Keep a fraction of every group of the prunable layers: the largest weights."""
    pruned = copy_network(module).eval()
    patterns = {}
    for name, m in prunable.items():
        layer = prunable_layer(pruned, name)
        patterns[name] = pattern_from_ranks(
            magnitude_ranks(layer.weight, layer, m), _kept(fraction, m), m
        )
    attach(pruned, patterns)
    return strip(pruned)[0]


def _kept(fraction: float, m: int) -> int:
    return max(1, round(fraction * m))


def _by_layer(steps: StepTimes) -> dict[str, float]:
    """Add up the steps of each layer: one that is called twice has two."""
    times: dict[str, float] = {}
    for name, seconds in steps:
        times[name] = times.get(name, 0.0) + seconds
    return times


def _layer_table(m: int, seconds: Mapping[int, float]) -> list[int]:
    """Return the nanoseconds at N = 0..M from the seconds at some N."""
    measured = sorted(seconds)
    nanoseconds = [seconds[n] * 1e9 for n in measured]
    line = np.interp(np.arange(m + 1), measured, nanoseconds)
    # No N is slower than dense: there the plan selects a dense kernel.
    rising = np.maximum.accumulate(np.minimum(line, seconds[m] * 1e9)).round().astype(int)
    # One nanosecond more for each weight, so that a search never meets a weight without a cost.
    return [int(cost) + n for n, cost in enumerate(rising)]
