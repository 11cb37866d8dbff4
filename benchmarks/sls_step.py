"""Cost of a search step of SLS beside a dense fine-tuning step.

    python benchmarks/sls_step.py --pairs 10 --threads 2

CARN x4, batch 16 of 48x48, Adam; the two kinds of step alternate, so that a busy machine slows
both. One step in `--regroup` also recomputes all ranks. Peak memory is that of a separate process
for each kind, or of the GPU. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from thinlens.methods.sls.method import Sls
from thinlens.methods.sls.search import SlsSearch
from thinlens.models import MODELS
from thinlens.sparsity.budget import Budget
from thinlens.training.loop import Settings, Trainer
from thinlens.training.objective import Objective, PlainObjective

Batch = tuple[Tensor, Tensor]

STEPS_FOR_MEMORY = 3


class Random:
    """The same batch in every step."""

    def __init__(self, size: int, patch: int, device: str) -> None:
        self.one = torch.rand(size, 3, patch, patch), torch.rand(size, 3, 4 * patch, 4 * patch)
        self.device = device

    def batch(self, seed: int, epoch: int, step: int) -> Batch:
        image, target = (x.contiguous(memory_format=torch.channels_last) for x in self.one)
        return image.to(self.device), target.to(self.device)


def stepper(objective: Objective, batch: Batch) -> Callable[[int], None]:
    """Return a function that takes an optimizer step as the training loop does."""
    optimizer = torch.optim.Adam(objective.param_groups(1e-4))

    def step(number: int) -> None:
        optimizer.zero_grad()
        with parametrize.cached():
            objective.loss(objective.module, batch).backward()
        optimizer.step()
        objective.after_step(number)

    return step


def measure(step: Callable[[int], None], number: int, device: str) -> tuple[float, float, int]:
    """Return one step's seconds, seconds of CPU, and on a GPU its peak memory in bytes.

    With one thread the CPU seconds are the most reliable on a shared machine.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start, cpu = time.perf_counter(), time.process_time()
    step(number)
    if device == "cuda":
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return time.perf_counter() - start, time.process_time() - cpu, peak


def build(data: Random, device: str, regroup: int) -> tuple[PlainObjective, SlsSearch]:
    """Return a dense objective and a searching one that does not freeze."""
    network = MODELS["carn"]
    steps = 300 * regroup  # an epoch of the search is 1/300 of the run
    method = Sls(budget=Budget(Fraction(1, 32)), example=(1, 3, 180, 320), penalty=1e-3)
    search = method.search(network.build(network.config), data, Trainer(Settings(steps=steps)))
    dense = PlainObjective(network.build(network.config))
    for objective in (dense, search):
        objective.module.train().to(device=device, memory_format=torch.channels_last)
    return dense, search


def peak_of_steps(kind: int, options: argparse.Namespace) -> int:
    """Return the peak memory, in bytes, of this process after a few steps of one kind."""
    torch.set_num_threads(options.threads)
    data = Random(options.batch, options.patch, "cpu")
    step = stepper(build(data, "cpu", options.regroup)[kind], data.batch(0, 0, 0))
    for number in range(STEPS_FOR_MEMORY):
        step(number)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


def peaks(options: argparse.Namespace) -> list[int]:
    """Return the peak memory of both kinds of step, each measured in a new process."""
    context = multiprocessing.get_context("spawn")
    memory = []
    for kind in range(2):
        with context.Pool(1) as pool:
            memory.append(pool.apply(peak_of_steps, (kind, options)))
    return memory


def main() -> None:
    """Time pairs of steps and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--regroup", type=int, default=50)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = Random(options.batch, options.patch, options.device)
    dense, search = build(data, options.device, options.regroup)
    steps = {
        name: stepper(objective, data.batch(0, 0, 0))
        for name, objective in (("dense", dense), ("sls", search))
    }
    taken: dict[str, list[tuple[float, float, int]]] = {name: [] for name in steps}
    for number in range(options.pairs + 1):
        for name, step in steps.items():
            taken[name].append(measure(step, number, options.device))
    wall, cpu, peak = (  # the first pair warms up
        {name: statistics.median(row[i] for row in rows[1:]) for name, rows in taken.items()}
        for i in range(3)
    )
    dense_peak, sls_peak = peaks(options) if options.device == "cpu" else peak.values()
    prunable = sum(mask.ranks.numel() for mask in search.masks.values())
    state = [t for mask in search.masks.values() for t in (mask.ranks, mask.priorities)]
    result = {
        "pairs": options.pairs,
        "median_ms": {name: round(1e3 * value, 2) for name, value in wall.items()},
        "ratio": round(wall["sls"] / wall["dense"], 4),
        "cpu_ratio": round(cpu["sls"] / cpu["dense"], 4),
        "state_bytes_per_weight": sum(t.numel() * t.element_size() for t in state) / prunable,
        "prunable_weights": prunable,
        "peak_mb": {"dense": dense_peak / 1e6, "sls": sls_peak / 1e6},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
