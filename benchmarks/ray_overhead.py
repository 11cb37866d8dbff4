"""Time `restore` on Ray workers beside one process: what Ray takes of a worker's time.

    pip install 'thinlens[ray]'
    python benchmarks/ray_overhead.py --out OUT [--images 1000] [--seconds 0.1] [--workers 2]

The network waits in place of computing, so that figures hardly depend on cores that others use.
Overhead is the time of all workers, each from its first image to the last of all, over that of one
process, minus 1. What passes before, to start the cluster and the workers, is stated beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from thinlens.files import JsonLines
from thinlens.restoration.folder import restore_folder
from thinlens.restoration.ray_workers import LOCAL, RayCluster
from thinlens.tasks import make_task

SIDES = (48, 64)
"""Height and width of the images in pixels."""

TASK = make_task("sr", scale=2)


class Waiting(nn.Module):
    """Repeats every pixel twice in each direction, after some seconds; logs when it began."""

    def __init__(self, seconds: float, log: Path) -> None:
        super().__init__()
        self.weight, self.seconds, self.log = nn.Parameter(torch.ones(1)), seconds, log

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, C, 2h, 2w]` for `[B, C, h, w]`."""
        with (self.log / str(os.getpid())).open("a") as file:
            file.write(f"{time.time()}\n")
        time.sleep(self.seconds)
        return nn.functional.interpolate(x, scale_factor=2) * self.weight


def write_images(folder: Path, count: int) -> Path:
    """Write images of noise."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(count):
        picture = Image.fromarray(noise.integers(0, 256, (*SIDES, 3), np.uint8))
        picture.save(folder / f"{number:05}.png")
    return folder


def restore(
    source: Path, out: Path, seconds: float, workers: int | None
) -> tuple[float, float, float]:
    """Restore a folder, without workers in this process.

    Returns the seconds of all, those before the first image, and those of all workers.
    """
    log = out.with_suffix(".times")
    log.mkdir()
    network = Waiting(seconds, log)
    cluster = workers and RayCluster(LOCAL, workers, lambda: network, TASK.channels)
    begin = time.time()
    result = restore_folder(network, TASK, source, out, cluster=cluster or None)
    end = time.time()
    assert result.done == len(list(source.iterdir())), result
    times = [[float(line) for line in path.read_text().split()] for path in log.iterdir()]
    last = max(each[-1] for each in times) + seconds
    return end - begin, min(each[0] for each in times) - begin, sum(last - x[0] for x in times)


def main() -> None:
    """Restore in one process and on workers, and print the seconds and the overhead."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=2)
    flags = parser.parse_args()
    shutil.rmtree(flags.out, ignore_errors=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # of the workers
    source = write_images(flags.out / "in", flags.images)
    _, _, alone = restore(source, flags.out / "alone", flags.seconds, None)
    full, start, worked = restore(source, flags.out / "ray", flags.seconds, flags.workers)
    overhead = worked / alone - 1
    line = {"images": flags.images, "seconds_each": flags.seconds, "workers": flags.workers}
    line |= {"alone": alone, "ray": full, "start": start, "worked": worked, "overhead": overhead}
    JsonLines(flags.out / "ray.jsonl").append(line)
    print(
        f"{flags.images} images of {flags.seconds} s: {alone:.1f} s in one process; {full:.1f} s "
        f"on {flags.workers} workers, {start:.1f} s of it before the first image: overhead "
        f"{overhead:.1%}"
    )


if __name__ == "__main__":
    main()
