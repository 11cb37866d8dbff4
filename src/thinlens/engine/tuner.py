"""Kernel selection: a dense kernel, or the sparse one by groups of input channels.

Auto-tuning: every candidate runs on a strip of an image on one thread, by that thread's CPU time;
the minimum over some rounds counts, because other programs can only add time. Times are cached on
disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np

from thinlens.engine.heuristic import CHANNEL_GROUP, Heuristic, fits_int16
from thinlens.engine.kernel_choice import (
    DENSE,
    INT16,
    WINOGRAD,
    KernelChoice,
    channel_group,
    is_int16,
)
from thinlens.engine.native import build, native
from thinlens.engine.ops.conv import ConvParams, sparse_weights
from thinlens.engine.timings import (
    Seconds,
    TimingCache,
    cache_folder,
    cpu_name,
    measure_interleaved,
)

KernelSelector = Callable[[ConvParams, int, int], KernelChoice]
"""Return a choice for a convolution, its input's vectors per row and its output rows."""

KernelTimer = Callable[[ConvParams, int, Sequence[KernelChoice]], list[float]]
"""Return the seconds of each choice for a convolution and its input's vectors per row; an empty
list where it cannot be measured."""

MIN_TUNED_MACS = 4_000_000
"""Multiply-adds of a dense convolution, about 0.1 ms, below which the heuristic is good enough."""

MIN_LANES = 4
"""Values per vector of the narrowest kernels."""

STRIP_ROWS = 24
"""Output rows of the measured strip; kernels work by tiles of at most four rows."""

MAX_ROW_VECTORS = 64
"""Vectors per row of the strip. Convolutions are measured at powers of two up to this."""

TUNING_ROUNDS = 5
"""Timed rounds, after one of warm-up."""


STRIP_RANGE = 1.25
"""Of the values of the strip, which are in [0, 1), for kernels of int16."""


def candidates(params: ConvParams, *, int16: bool = False) -> list[KernelChoice]:
    """List the choices for a convolution, by default without those of int16."""
    channels = params.in_channels
    grouped = [CHANNEL_GROUP] if channels > CHANNEL_GROUP else []
    choices = [DENSE, channels, *grouped, *([WINOGRAD] if params.fits_winograd else [])]
    if int16 and fits_int16(params):
        choices += [INT16 + DENSE, INT16 + channels]
    return choices


class KernelSource(Enum):
    """What a kernel was selected by without measuring it now."""

    TIMES = "times of all candidates that are stored on this machine"
    HEURISTIC = "the heuristic, though a measurement may find a faster one"
    SIZE = "the heuristic, of a convolution that is not worth a measurement"


class Tuner:
    """Selects kernels by measured times, which it caches. Safe to call from several threads."""

    def __init__(
        self, name: str, timer: KernelTimer, timings: TimingCache, heuristic: Heuristic
    ) -> None:
        self._name, self._timer, self._timings = name, timer, timings
        self.heuristic = heuristic
        self._lock = Lock()

    def __call__(self, params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
        """Return the fastest choice for a convolution of `rows` output rows."""
        seconds = self.seconds(params, row_vectors, rows)
        if not seconds:
            return self.heuristic(params, row_vectors, rows)
        return min(seconds, key=seconds.__getitem__)

    def stored(
        self, params: ConvParams, row_vectors: int, rows: int
    ) -> tuple[KernelChoice, KernelSource]:
        """Return a choice without measuring: the fastest one where all are timed, else the
        heuristic's."""
        seconds = self.seconds(params, row_vectors, rows, is_stored=True)
        if seconds:
            return min(seconds, key=seconds.__getitem__), KernelSource.TIMES
        is_small = _is_small(params, row_vectors, rows)
        source = KernelSource.SIZE if is_small else KernelSource.HEURISTIC
        return self.heuristic(params, row_vectors, rows), source

    def dense(self, params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
        """Return the fastest choice that multiplies by zeros too."""
        seconds = self.seconds(params, row_vectors, rows)
        dense = [choice for choice in seconds if choice in (DENSE, WINOGRAD, INT16 + DENSE)]
        if not dense:
            return self.heuristic.dense(params, row_vectors, rows)
        return min(dense, key=seconds.__getitem__)

    def seconds(
        self, params: ConvParams, row_vectors: int, rows: int, *, is_stored: bool = False
    ) -> Seconds:
        """Return the seconds of every choice, measured unless `is_stored`; none where a measurement
        is not worth it."""
        if _is_small(params, row_vectors, rows):
            return {}
        strip_vectors = _rounded(row_vectors, params.strides[1])
        key = f"{self._name} {_description(params)} {strip_vectors}"
        choices = candidates(params, int16=self.heuristic.int16)
        with self._lock:
            seconds = self._timings.get(key, choices)
            if seconds is None and is_stored:
                return {}
            if seconds is None:
                measured = self._timer(params, strip_vectors, choices)
                seconds = dict(zip(choices, measured, strict=bool(measured)))
                if seconds:
                    self._timings.add(key, seconds)
        return {choice: seconds[choice] for choice in choices if seconds}


@cache
def tuner(kernels: str, *, int16: bool = False) -> Tuner:
    """Return the tuner of a set of kernels, with the times that earlier processes measured."""
    name = f"{cpu_name()} {kernels}{' int16' if int16 else ''} {build()}"

    def timer(params: ConvParams, row_vectors: int, choices: Sequence[KernelChoice]) -> list[float]:
        return strip_seconds(kernels, params, row_vectors, choices)

    timings = _kernel_timings(cache_folder() / "kernels-1.json")
    return Tuner(name, timer, timings, Heuristic(kernels, int16))


@cache
def _kernel_timings(path: Path) -> TimingCache:
    return TimingCache(path)


def strip_seconds(
    kernels: str, params: ConvParams, row_vectors: int, choices: Sequence[KernelChoice]
) -> list[float]:
    """Return the seconds of every choice on a strip of an image with `row_vectors` per row."""
    core = native()
    if core is None:
        return []
    isa = core.kernels(kernels)
    (stride_y, stride_x), halo = params.strides, params.halo
    row_vectors = max(row_vectors, stride_x)
    c_out, c_in = params.weight.shape[:2]
    height, width = STRIP_ROWS * stride_y, row_vectors * isa.lanes
    out_height, out_width = STRIP_ROWS, row_vectors // stride_x * isa.lanes
    shapes = [
        core.Shape(c_in, height, width, row_vectors, halo),
        core.Shape(c_out, out_height, out_width, row_vectors // stride_x),
    ]
    floats = [isa.floats(shape) for shape in shapes]
    program = core.Program(isa, sum(floats))
    source, target = (
        core.Slice(program.tensor(start, shape), 0, shape.channels)
        for start, shape in zip((0, floats[0]), shapes, strict=True)
    )
    weights = sparse_weights(core, params)
    program.pack(source)
    for choice in choices:
        input_range = STRIP_RANGE if is_int16(choice) else 0.0
        group = channel_group(choice)
        program.conv(weights, source, target, channel_group=group, input_range=input_range)
    program.unpack(target)
    image = np.random.default_rng(0).random((1, c_in, height, width), np.float32)
    output = np.empty((1, c_out, out_height, out_width), np.float32)
    pool = core.ThreadPool(1)
    steps: list[list[float]] = []

    def run() -> None:
        program.run(pool, image, output)
        steps.append(program.seconds()[1:-1])  # of the convolutions

    measure_interleaved([run], TUNING_ROUNDS)
    return [min(seconds) for seconds in zip(*steps[-TUNING_ROUNDS:], strict=True)]


def _is_small(params: ConvParams, row_vectors: int, rows: int) -> bool:
    """Whether a convolution is not worth a measurement."""
    return params.weight.size * row_vectors * MIN_LANES * rows < MIN_TUNED_MACS


def _rounded(row_vectors: int, stride: int) -> int:
    """Round to a power of two, and to whole strides."""
    power = 1 << round(math.log2(max(1, min(row_vectors, MAX_ROW_VECTORS))))
    return -(-power // stride) * stride


def _description(params: ConvParams) -> str:
    """Describe what a kernel's speed depends on: its shape and its density, in 1/64."""
    density = round(64 * params.nonzeros / params.weight.size)
    sizes = "x".join(map(str, params.weight.shape))
    return f"{sizes} p{params.paddings} s{params.strides} d{params.dilations} {density}/64"
