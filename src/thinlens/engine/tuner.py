"""Which kernel is the fastest for a convolution, on this machine?

Every candidate runs on a strip of an image, in turns, by one thread's CPU time; the least of some
rounds counts, because other programs can only add. What was found is remembered on disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from threading import Lock

import numpy as np

from thinlens.engine.choice import candidates, guess, table
from thinlens.engine.graph import Kernel
from thinlens.engine.native import build, native
from thinlens.engine.timings import Timings, cpu, folder

Measure = Callable[[Kernel, int, Sequence[int]], list[float]]
"""Given a convolution, the columns of its grid and choices, returns the seconds of each choice;
an empty list where it cannot be measured."""

LEAST_MACS = 4_000_000
"""A dense convolution of fewer multiply-adds takes about 0.1 ms: `guess` is good enough."""

STRIP = 24
"""Output rows of the measured strip; kernels work by tiles of at most four rows."""

MOST_COLUMNS = 64
"""Vectors in a row of the strip. Grids are measured at powers of two up to this."""

ROUNDS = 5
"""After one that warms up."""


class Tuner:
    """Chooses by measurement; remembers. Safe to call from several threads."""

    def __init__(self, name: str, measure: Measure, timings: Timings) -> None:
        self._name, self._measure, self._timings = name, measure, timings
        self._lock = Lock()

    def __call__(self, kernel: Kernel, columns: int, rows: int) -> int:
        """Return the fastest choice for a convolution of `rows` output rows."""
        lanes_at_least = 4
        if kernel.weight.size * columns * lanes_at_least * rows < LEAST_MACS:
            return guess(kernel, columns, rows)
        grid = _grid(columns, kernel.stride)
        key = f"{self._name} {_shape(kernel)} {grid}"
        choices = candidates(kernel)
        with self._lock:
            seconds = self._timings.get(key, choices)
            if seconds is None:
                measured = self._measure(kernel, grid, choices)
                if not measured:
                    return guess(kernel, columns, rows)
                seconds = dict(zip(choices, measured, strict=True))
                self._timings.add(key, seconds)
        return min(choices, key=seconds.__getitem__)


@cache
def tuner(kernels: str) -> Tuner:
    """Return the tuner of a set of kernels, with what earlier processes have measured."""
    name = f"{cpu()} {kernels} {build()}"

    def measure(kernel: Kernel, columns: int, choices: Sequence[int]) -> list[float]:
        return strip_seconds(kernels, kernel, columns, choices)

    return Tuner(name, measure, Timings(folder() / "kernels-1.json"))


def strip_seconds(
    kernels: str, kernel: Kernel, columns: int, choices: Sequence[int]
) -> list[float]:
    """Run every choice on a strip of an image with `columns` vectors in a row."""
    core = native()
    if core is None:
        return []
    isa = core.kernels(kernels)
    stride, halo = kernel.stride, kernel.halo
    columns = max(columns, stride, -(-halo // stride) * stride)
    c_out, c_in = kernel.weight.shape[:2]
    height, width = STRIP * stride + 2 * halo, columns * isa.lanes - 2 * halo
    out_height, out_width = (_slid(side, kernel) for side in (height, width))
    if min(out_height, out_width) < 1:
        return []
    shapes = [
        core.Shape(c_in, height, width, columns, halo),
        core.Shape(c_out, out_height, out_width, columns // stride),
    ]
    floats = [isa.floats(shape) for shape in shapes]
    program = core.Program(isa, sum(floats))
    into, out = (
        core.Slice(program.tensor(start, shape), 0, shape.channels)
        for start, shape in zip((0, floats[0]), shapes, strict=True)
    )
    weights = table(core, kernel)
    program.pack(into)
    for choice in choices:
        program.conv(weights, into, out, channel_group=choice)
    program.unpack(out)
    image = np.random.default_rng(0).random((1, c_in, height, width), np.float32)
    answer = np.empty((1, c_out, out_height, out_width), np.float32)
    pool = core.ThreadPool(1)
    rounds = []
    for _ in range(ROUNDS + 1):
        program.run(pool, image, answer)
        rounds.append(program.seconds()[1:-1])
    return [min(times) for times in zip(*rounds[1:], strict=True)]


def _slid(side: int, kernel: Kernel) -> int:
    """How many places a kernel has along a side, with the padding of the shorter side."""
    return (side + kernel.padding - kernel.reach - 1) // kernel.stride + 1


def _grid(columns: int, stride: int) -> int:
    """Round to a power of two, and to whole strides."""
    power = 1 << round(math.log2(max(1, min(columns, MOST_COLUMNS))))
    return -(-power // stride) * stride


def _shape(kernel: Kernel) -> str:
    """Name what a kernel's speed depends on: its shape and how many weights live, in 1/64."""
    living = round(64 * np.count_nonzero(kernel.weight) / kernel.weight.size)
    sizes = "x".join(map(str, kernel.weight.shape))
    return f"{sizes} p{kernel.padding} s{kernel.stride} d{kernel.dilation} {living}/64"
