"""How much slower the heuristic's kernels are than the measured ones, by network.

    python benchmarks/heuristic.py [--size 320x180] [--precisions fp32,int16]

For rfdn-x4, EDSR and CARN, dense and by N:M patterns with random weights, and for the shipped
realesr-animevideov3-thin. Every candidate of every convolution is measured on a strip, once for
each machine, build, shape and density (`thinlens tune`); times are kept in the cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from torch import nn

from thinlens.cli.bench import load_branch
from thinlens.engine.graph import Size
from thinlens.engine.kernel_report import measure_precision
from thinlens.models import image_channels

NETWORKS = ("rfdn", "edsr", "carn")
PATTERNS = (None, "8:32", "4:32", "2:32")
SHIPPED = "realesr-animevideov3-thin"


def networks() -> Iterator[tuple[str, nn.Module]]:
    """Yield each network with its label."""
    for name in NETWORKS:
        for pattern in PATTERNS:
            yield f"{name} {pattern or 'dense'}", load_branch(name, pattern)
    yield SHIPPED, load_branch(SHIPPED, None)


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--precisions", default="fp32,int16")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    print("| network | precision | convolutions | other kernel | heuristic's loss |")
    print("|---|---|---:|---:|---:|")
    for label, module in networks():
        for precision in options.precisions.split(","):
            size = Size(image_channels(module), height, width)
            row = measure_precision(module, size, precision)
            loss = f"{100 * row.heuristic_loss:.1f} %"
            print(f"| {label} | {precision} | {row.convolutions} | {row.changed} | {loss} |")


if __name__ == "__main__":
    main()
