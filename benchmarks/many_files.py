"""Resident memory while a folder of many tiny images of changing sizes is restored.

    python benchmarks/many_files.py [--files 10000] [--engine auto|torch|native]

Grey, RGB and RGBA of 3 to 60 pixels a side, from PNG, TIFF and WebP. Prints the memory on the way
and, at the end, the ratio of the last to that after 1,000 files: 1.05 is the limit.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

import thinlens
from thinlens.machine_memory import resident_bytes
from thinlens.models import create
from thinlens.tasks import make_task

SMALLEST, LARGEST = 3, 60
MODES = ("L", "RGB", "RGBA")
SUFFIXES = (".png", ".tif", ".webp")
MARKS = (300, 1000, 3000)
"""Numbers of files after which memory is printed, beside the last."""

FIRST_MARK = 1000
"""The number of files whose memory is the measure of the last."""


def write_images(folder: Path, count: int) -> None:
    """Write images of random sizes, modes and formats."""
    rng = np.random.default_rng(0)
    for index in range(count):
        height, width = rng.integers(SMALLEST, LARGEST + 1, 2)
        mode = MODES[int(rng.integers(len(MODES)))]
        pixels = rng.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
        suffix = SUFFIXES[int(rng.integers(len(SUFFIXES)))]
        image = Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
        image.save(folder / f"{index:05}{suffix}")


def main() -> None:
    """Restore the folder and print the memory on the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--engine", default="auto")
    options = parser.parse_args()
    network = create("dncnn-17", depth=4, width=16, channels=3)
    memory: dict[int, float] = {}
    start = time.monotonic()

    def report(done: int, total: int, values: Any) -> None:
        if done in (*MARKS, total):
            memory[done] = (resident_bytes() or 0) / 2**20
            seconds = time.monotonic() - start
            print(f"{done} files: {memory[done]:.1f} MiB, {seconds:.0f} s", flush=True)

    with TemporaryDirectory(prefix="thinlens-many-") as temporary:
        source = Path(temporary) / "in"
        source.mkdir()
        write_images(source, options.files)
        result = thinlens.restore(
            *(network, source, Path(temporary) / "out"),
            task=make_task("denoise", channels=3),
            engine=options.engine,
            progress=report,
        )
    print(f"{result.done} done, {len(result.failures)} failed")
    if FIRST_MARK in memory:
        print(f"last to {FIRST_MARK}: {memory[options.files] / memory[FIRST_MARK]:.3f}")


if __name__ == "__main__":
    main()
