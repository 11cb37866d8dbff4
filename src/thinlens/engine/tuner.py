"""Kernel selection: a dense kernel, or the sparse one by groups of input channels.

Auto-tuning: every candidate runs on a strip of an image on one thread, by that thread's CPU time;
the minimum over some rounds counts, because other programs can only add time. Times are cached on
disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np

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

CHANNEL_GROUP = 16
"""Input channels whose rows, for one tile, stay in the first-level cache."""

DENSE_FROM = 0.45
"""Fraction of non-zero weights from which `heuristic` selects the dense kernel."""

WINOGRAD_FROM = 0.26
"""The same for Winograd's kernel, where it can run."""

WIDE_OUTPUTS, WINOGRAD_FROM_WIDE = 128, 0.24
"""The same for convolutions of many output channels, which share its transformed inputs."""

MIN_WINOGRAD_CHANNELS = 16
"""Input and output channels below which transforms take longer than the products that they save."""

GROUPED_FROM = 32
"""Non-zeros per output channel from which `heuristic` traverses input channels in groups."""

FAST_INT16 = "avx512"
"""The beginning of the names of kernels whose int16 is faster than their fp32. The limits below and
those above were read off the times of some 400 convolutions on a Xeon with AVX-512 VNNI
(benchmarks/heuristic.py)."""

MIN_INT16_OUTPUTS = 16
"""Output channels below which the conversion of the input takes longer than it saves."""

MIN_INT16_NONZEROS = 16
"""Non-zeros per output channel from which a sparse kernel of int16 is selected."""

MIN_INT16_WEIGHTS = 64
"""Weights per output channel from which a dense kernel of int16 is selected."""

MIN_TUNED_MACS = 4_000_000
"""Multiply-adds of a dense convolution, about 0.1 ms, below which `heuristic` is good enough."""

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


MAX_INT16_REACH = 128
"""Rows and columns that an output reads around its own, for kernels of int16: they convert a block
of the input with all of them."""


def candidates(params: ConvParams, *, int16: bool = False) -> list[KernelChoice]:
    """List the choices for a convolution, by default without those of int16."""
    channels = params.in_channels
    grouped = [CHANNEL_GROUP] if channels > CHANNEL_GROUP else []
    choices = [DENSE, channels, *grouped, *([WINOGRAD] if params.fits_winograd else [])]
    rows = sum(params.paddings) + sum(params.trailing)
    if not int16 or rows > MAX_INT16_REACH or not np.isfinite(params.weight).all():
        return choices
    return [*choices, INT16 + DENSE, INT16 + channels]


def heuristic(params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
    """Select by density and channels, without a measurement.

    A `KernelSelector`, as `dense_heuristic` is.
    """
    c_out, channels = params.weight.shape[:2]
    nonzeros = params.nonzeros
    dense = dense_heuristic(params, row_vectors, rows)
    dense_from = DENSE_FROM
    if dense == WINOGRAD:
        dense_from = WINOGRAD_FROM_WIDE if c_out >= WIDE_OUTPUTS else WINOGRAD_FROM
    if nonzeros > dense_from * params.weight.size:
        return dense
    grouped = channels > CHANNEL_GROUP and nonzeros > GROUPED_FROM * c_out
    return CHANNEL_GROUP if grouped else channels


def dense_heuristic(params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
    """Select a kernel that multiplies by zeros too, by channels."""
    wide = min(params.weight.shape[:2]) >= MIN_WINOGRAD_CHANNELS
    return WINOGRAD if wide and params.fits_winograd else DENSE


def int16_heuristic(params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
    """Select as `heuristic` does, and int16 where products outweigh the conversion of the input.

    A `KernelSelector` for kernels with `FAST_INT16`. Winograd's kernel is faster than a dense one
    of int16; sparse ones are faster in int16 than in fp32 from few non-zeros on.
    """
    choice = heuristic(params, row_vectors, rows)
    outputs, inputs = params.weight.shape[0], params.in_channels
    sparse, dense = INT16 + inputs, INT16 + DENSE
    if choice == WINOGRAD and params.nonzeros > WINOGRAD_FROM * params.weight.size:
        return choice
    if outputs < MIN_INT16_OUTPUTS:
        return choice
    if sparse not in candidates(params, int16=True):
        return choice
    if choice == DENSE:
        return dense if params.weight[0].size >= MIN_INT16_WEIGHTS else choice
    return sparse if params.nonzeros >= MIN_INT16_NONZEROS * outputs else choice


class Tuner:
    """Selects kernels by measured times, which it caches. Safe to call from several threads."""

    def __init__(
        self, name: str, timer: KernelTimer, timings: TimingCache, *, int16: bool = False
    ) -> None:
        self._name, self._timer, self._timings = name, timer, timings
        self._int16, self._has_fast_int16 = int16, FAST_INT16 in name
        self._lock = Lock()

    def __call__(self, params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
        """Return the fastest choice for a convolution of `rows` output rows."""
        seconds = self.seconds(params, row_vectors, rows)
        if not seconds:
            return heuristic(params, row_vectors, rows)
        return min(seconds, key=seconds.__getitem__)

    def stored(self, params: ConvParams, row_vectors: int, rows: int) -> tuple[KernelChoice, bool]:
        """Return a choice without measuring, and whether a measurement could not make it better.

        It is the fastest one where all are timed, else the heuristic's.
        """
        seconds = self.seconds(params, row_vectors, rows, is_stored=True)
        if seconds:
            return min(seconds, key=seconds.__getitem__), True
        if _is_small(params, row_vectors, rows):
            return heuristic(params, row_vectors, rows), True
        return self.heuristic(params, row_vectors, rows), False

    def heuristic(self, params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
        """Select by density and channels, among all that `seconds` compares."""
        if self._int16 and self._has_fast_int16:
            return int16_heuristic(params, row_vectors, rows)
        return heuristic(params, row_vectors, rows)

    def dense(self, params: ConvParams, row_vectors: int, rows: int) -> KernelChoice:
        """Return the fastest choice that multiplies by zeros too."""
        seconds = self.seconds(params, row_vectors, rows)
        dense = [choice for choice in seconds if choice in (DENSE, WINOGRAD, INT16 + DENSE)]
        if not dense:
            return dense_heuristic(params, row_vectors, rows)
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
        choices = candidates(params, int16=self._int16)
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
    return Tuner(name, timer, timings, int16=int16)


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
