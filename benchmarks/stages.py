"""Duration of the main stages on this machine: a training step, least squares, a forward pass.

Medians of a few repeats on RFDN (64 channels, x4); one line each. Run it on an idle machine.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import thinlens
from thinlens.models import create

REPEATS = 5
PATCH, BATCH = 48, 8
FORWARD = (180, 320)
"""Height and width of the input of a 1280x720 output."""


def main() -> None:
    """Print the times."""
    torch.manual_seed(0)
    network = create("rfdn", scale=4)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    image, target = torch.rand(BATCH, 3, PATCH, PATCH), torch.rand(BATCH, 3, 4 * PATCH, 4 * PATCH)
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        (network(image) - target).abs().mean().backward()
        optimizer.step()

    show(f"training step, batch {BATCH} of {PATCH}x{PATCH}", step, REPEATS)
    network.eval()
    large = torch.rand(1, 3, *FORWARD)

    def forward() -> Tensor:
        with torch.inference_mode():
            return network(large)

    show(f"dense forward, {FORWARD[1]}x{FORWARD[0]} to 1280x720", forward, REPEATS)
    crops = [(torch.rand(3, 80, 80), torch.rand(3, 320, 320)) for _ in range(13)]
    show(
        "least squares at 1/4, 13 crops of 80x80",
        lambda: thinlens.prune(network, budget="1/4", data=crops, size=FORWARD),
        1,
    )


def show(what: str, act: Callable[[], object], repeats: int) -> None:
    """Print the median seconds of `act`; the first of several calls is a warm-up."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    print(f"{what}: {statistics.median(times[-repeats:]):.3f} s")


if __name__ == "__main__":
    main()
