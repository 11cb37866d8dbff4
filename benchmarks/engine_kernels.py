"""Latency of every kernel on one 3x3 convolution with a PReLU, dense and with random zeros.

    python benchmarks/engine_kernels.py [--channels 64x64] [--size 320x180] [--rounds 15]

One thread; CPU time. All kernels run in turns within one program, on whole tensors.
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np

from thinlens.engine.kernel_choice import (
    DENSE,
    INT16,
    WINOGRAD,
    channel_group,
    is_int16,
    kernel_name,
)
from thinlens.engine.native import fastest, native
from thinlens.engine.ops.conv import ConvParams, sparse_weights
from thinlens.engine.tuner import CHANNEL_GROUP

M = 32
KEPT = (16, 8, 4, 2)
CASES = ((M, WINOGRAD), (M, DENSE), (M, INT16), *((n, CHANNEL_GROUP) for n in KEPT))
"""N of M, and the kernel; the sparse one of int16, over all input channels, is added."""

SLOPE = 0.1

INPUT_RANGE = 1.25
"""Of the values in [0, 1), for kernels of int16."""


def random_params(c_in: int, c_out: int, n: int) -> ConvParams:
    """Return weights of which `n` of every M consecutive input channels are kept at random."""
    rng = np.random.default_rng(n)
    weight = rng.standard_normal((c_out, c_in, 3, 3)).astype(np.float32)
    groups = rng.random((c_out, -(-c_in // M), M, 3, 3)).argsort(2).argsort(2)
    weight[groups.reshape(c_out, -1, 3, 3)[:, :c_in] >= n] = 0
    return ConvParams(weight, rng.standard_normal(c_out).astype(np.float32), 1, 1, 1)


def measure(name: str, c_in: int, c_out: int, size: tuple[int, int], rounds: int) -> None:
    """Print the milliseconds of every case with one set of kernels."""
    core = native()
    if core is None:
        raise SystemExit("the native engine was not built")
    width, height = size
    kernels = core.kernels(name)
    shapes = [core.Shape(c, height, width, -(-width // kernels.lanes), 1) for c in (c_in, c_out)]
    floats = [kernels.floats(shape) for shape in shapes]
    program = core.Program(kernels, sum(floats))
    x = core.Slice(program.tensor(0, shapes[0]), 0, c_in)
    y = core.Slice(program.tensor(floats[0], shapes[1]), 0, c_out)
    program.pack(x)
    cases = [*CASES, *((n, INT16 + c_in) for n in KEPT)]
    for n, kernel in cases:
        weights = sparse_weights(core, random_params(c_in, c_out, n))
        program.conv(
            weights,
            x,
            y,
            slope=[SLOPE] * c_out,
            channel_group=channel_group(kernel),
            input_range=INPUT_RANGE if is_int16(kernel) else 0.0,
        )
    program.unpack(y)
    image = np.random.default_rng(0).random((1, c_in, height, width), np.float32)
    output = np.empty((1, c_out, height, width), np.float32)
    pool, seconds = core.ThreadPool(1), []
    for _ in range(1 + rounds):
        program.run(pool, image, output)
        seconds.append(program.seconds()[1:-1])
    for (n, kernel), times in zip(cases, zip(*seconds[1:], strict=True), strict=True):
        row = f"{name} {c_in} to {c_out} {width}x{height} {n}:{M} {kernel_name(kernel)}"
        print(f"{row:52} median {1e3 * median(times):6.2f} ms  min {1e3 * min(times):6.2f} ms")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--channels", default="64x64")
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--kernels", default=fastest())
    options = parser.parse_args()
    c_in, c_out = map(int, options.channels.split("x"))
    width, height = map(int, options.size.split("x"))
    for name in options.kernels.split(","):
        measure(name, c_in, c_out, (width, height), options.rounds)


if __name__ == "__main__":
    main()
