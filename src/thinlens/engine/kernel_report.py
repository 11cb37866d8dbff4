"""Report of a plan's convolutions: the kernel of each, and what its zeros save."""

from __future__ import annotations

from typing import Any

import torch

from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.kernel_choice import kernel_name
from thinlens.engine.tuner import tuner

KERNEL_ROUNDS = 5
"""Runs of the network, of which each convolution's least time is reported."""


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
