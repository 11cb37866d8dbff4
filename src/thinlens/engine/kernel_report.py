"""Measurement of kernels ahead, and the report of a plan's: each one, and what its zeros save."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.input_ranges import measure_input_ranges
from thinlens.engine.kernel_choice import kernel_name
from thinlens.engine.kernel_policy import KernelMeasurement, MeasuringSelector
from thinlens.engine.native import fastest
from thinlens.engine.precision import find_precision
from thinlens.engine.tuner import tuner

RANGED_SIDE = 64
"""Pixels of the sides of the noise by which int16 is scaled: its time does not depend on it."""

KERNEL_ROUNDS = 5
"""Runs of the network, of which each convolution's least time is reported."""


def measure_kernels(engine: Compiled, size: Size) -> KernelMeasurement:
    """Measure the kernels of all convolutions for images of `size` that no process measured.

    The engine plans every size anew with the fastest ones.
    """
    selector = MeasuringSelector(engine.kernels, int16=engine.precision == "int16")
    engine.with_selector(selector).plan(size)
    engine.plan_anew()
    return selector.measurement()


def measure_precision(module: nn.Module, size: Size, precision: str) -> KernelMeasurement:
    """Measure the kernels that a network has in a precision of `PRECISIONS`.

    Raises `UsageError` where this CPU does not have the precision, or the engine runs no layer.
    """
    ranges = None
    if find_precision(precision).int16:
        image = torch.rand(1, size.channels, *[RANGED_SIDE] * 2)
        ranges = measure_input_ranges(module, [image], threads=1)
    engine = Compiled(module, torch.get_num_threads(), fastest(precision), input_ranges=ranges)
    return measure_kernels(engine, size)


def kernel_report(engine: Compiled, size: Size) -> list[dict[str, Any]]:
    """List the convolutions of a compiled network for an image of `size` in the order they run.

    Each has `layer` (empty where no module's weights are used), `kernel` (dense, winograd or
    sparse), `ms`, `dense_kernel`, the fastest that multiplies by zeros too, and `dense_ms`: the
    difference is what the zeros save. Raises `UsageError` where the engine runs no layer.
    """
    image = torch.rand(1, size.channels, size.height, size.width)
    engines = [engine, engine.with_selector(tuner(engine.kernels).dense)]
    plans = [engine.plan(size) for engine in engines]
    rounds: list[list[list[float]]] = []
    for _ in range(1 + KERNEL_ROUNDS):  # the first is warm-up
        for run in engines:
            run(image)
        rounds.append([plan.program.seconds() for plan in plans])
    ms, dense_ms = (
        [1e3 * min(times) for times in zip(*of_plan, strict=True)]
        for of_plan in zip(*rounds[1:], strict=True)
    )
    plan, dense = plans
    return [
        {
            "layer": plan.layers[step],
            "kernel": kernel_name(kernel),
            "ms": ms[step],
            "dense_kernel": kernel_name(dense.kernels[step]),
            "dense_ms": dense_ms[step],
        }
        for step, kernel in plan.kernels.items()
    ]
