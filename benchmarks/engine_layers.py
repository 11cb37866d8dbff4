"""Latency of the native engine and of torch, on one layer and on whole networks.

    python benchmarks/engine_layers.py [--rounds 5] [--size 320x180] [--precision fp32,int16] NAME

One thread; times are that thread's CPU time, which other jobs on the machine hardly change.
Engines are measured interleaved, and medians are printed. NAMEs are networks or `layer`.
On a machine with AVX-512, the times of both without it:

    export ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
    python benchmarks/engine_layers.py --kernels avx2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from thinlens.engine.compiled import Compiled
from thinlens.engine.input_ranges import measure_input_ranges
from thinlens.engine.native import fastest
from thinlens.engine.precision import Precision, find_precision
from thinlens.engine.timings import Clock, measure_interleaved
from thinlens.models import create
from thinlens.sparsity.masking import attach, strip
from thinlens.sparsity.pattern import pattern_from_ranks
from thinlens.sparsity.ranks import magnitude_ranks

M = 32
KEPT = (8, 4, 2)


def prune(module: nn.Module, n: int) -> nn.Module:
    """Keep the `n` largest of every 32 weights of all layers of 32, 64, ... input channels."""
    patterns = {
        name: pattern_from_ranks(magnitude_ranks(layer.weight, layer, M), n, M)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.in_channels % M == 0 and layer.out_channels > 3
    }
    attach(module, patterns)
    return strip(module)[0]


def compare(
    name: str, image: Tensor, rounds: int, kernels: Sequence[tuple[str, Precision]]
) -> None:
    """Print the latency of `name` with each set of kernels, dense and at each N:32."""
    module: nn.Module = nn.Conv2d(64, 64, 3, padding=1) if name == "layer" else create(name)
    module.eval()
    last = image.to(memory_format=torch.channels_last)
    dense = deepcopy(module).to(memory_format=torch.channels_last)
    engines: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {"torch": (dense, last)}
    thin = {"dense": module} | {f"{n}:{M}": prune(deepcopy(module), n) for n in KEPT}
    for isa, precision in kernels:
        for kept, network in thin.items():
            ranges = measure_input_ranges(network, [image]) if precision.int16 else None
            engine = Compiled(network, 1, isa, input_ranges=ranges)
            engines[f"{isa} {precision.name} {kept}"] = (engine, image)
    with torch.inference_mode():
        seconds = measure_interleaved(
            [partial(run, x) for run, x in engines.values()],
            rounds,
            clock=Clock(now=time.thread_time),
        )
    times = dict(zip(engines, seconds, strict=True))
    base = median(times["torch"])
    for engine, values in times.items():
        middle, least = median(values), min(values)
        times_line = f"median {middle * 1e3:8.1f} ms  min {least * 1e3:8.1f} ms"
        ratios = f"{base / middle:5.2f} x torch (of minima {min(times['torch']) / least:5.2f})"
        print(f"{name:8} {engine:24} {times_line}  {ratios}", flush=True)


def main() -> None:
    """Read the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=["layer", "edsr", "carn", "rfdn"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--kernels", help="in place of the fastest of each precision: avx2")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    torch.set_num_threads(1)
    precisions = [find_precision(name) for name in options.precision.split(",")]
    kernels = [
        (isa, precision)
        for precision in precisions
        for isa in (options.kernels or fastest(precision.name)).split(",")
    ]
    names = [f"{isa} {precision.name}" for isa, precision in kernels]
    print(f"kernels {names}, torch {torch.__version__} channels_last, {options.size}, 1 thread")
    for name in options.names:
        image = torch.rand(1, 64 if name == "layer" else 3, height, width)
        compare(name, image, options.rounds, kernels)


if __name__ == "__main__":
    main()
