"""Kill one of two, and of four, training processes at random moments: nothing is lost; resumable.

    python benchmarks/torture_training.py --out OUT [--kills 10] [--seed 0]

In each case one process of two (then of four) gets SIGKILL somewhere in a run. The others must stop
within 60 s and name it, the saved state must load, and the run must end, with as many processes or
with another number, at the weights of one process to rounding; with as many, bit for bit at those
of a run that nothing disturbed. Prints a line for each number of processes.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import shutil
import signal
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thinlens.errors import RunError
from thinlens.files import JsonLines
from thinlens.training.loop import Settings, Trainer
from thinlens.training.objective import PlainObjective
from thinlens.training.state import load_state

SETTINGS = Settings(steps=60, warmup=3, save_every=5, epoch_steps=20, learning_rate=1e-3)

NAMED_SECONDS = 60.0
"""After a kill, in which the others stop."""

ROUNDING = 1e-4
"""Between the weights of one process and of several, after all steps."""

FORKS = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Noise:
    """Random images of which the target is a blurred copy; eight, so that eight ranks share one."""

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the joint batch of a step."""
        random_images = np.random.default_rng([seed, epoch, step]).random((8, 3, 8, 8))
        image = torch.from_numpy(random_images).float()
        return image, nn.functional.avg_pool2d(image, 3, 1, 1)


def train(pipe: Connection, rank: int, count: int, port: int, folder: Path) -> None:
    """Train as one of several processes, in the environment that torchrun makes."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    if count > 1:
        os.environ |= {"TORCHELASTIC_RUN_ID": "torture", "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {"MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1))

    def progress(step: int, steps: int, values: Any) -> None:
        pipe.send(step)

    try:
        Trainer(SETTINGS, folder, progress).fit(PlainObjective(module), Noise())
    except RunError as error:
        pipe.send(str(error))
        raise SystemExit(1) from None
    torch.save(module.state_dict(), folder / f"final-{rank}.pt")


def start(folder: Path, count: int) -> list[tuple[Any, Connection]]:
    """Start the processes of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        ours, theirs = FORKS.Pipe()
        process = FORKS.Process(target=train, args=(theirs, rank, count, port, folder))
        process.start()
        theirs.close()
        processes.append((process, ours))
    return processes


def heard(pipe: Connection) -> list[Any]:
    """Return all that a process said."""
    said = []
    try:
        while True:
            said.append(pipe.recv())
    except EOFError:
        return said


def complete(folder: Path, count: int) -> dict[str, Tensor]:
    """Run to the end; return the weights, which are those of every process."""
    for process, _ in (processes := start(folder, count)):
        process.join()
    assert [process.exitcode for process, _ in processes] == [0] * count
    finals = [torch.load(folder / f"final-{rank}.pt", weights_only=True) for rank in range(count)]
    for other in finals:
        assert all(torch.equal(finals[0][name], other[name]) for name in other)
    weights: dict[str, Tensor] = finals[0]
    return weights


def kill_one(folder: Path, count: int, chance: random.Random) -> float:
    """Kill a process at a random moment; return the seconds until the last other one stopped."""
    processes = start(folder, count)
    victim, last = chance.randrange(count), chance.randrange(1, SETTINGS.steps - 5)
    while (step := processes[0][1].recv()) < last:  # the main process states each step
        assert isinstance(step, int)
    time.sleep(chance.uniform(0, 0.02))
    os.kill(processes[victim][0].pid, signal.SIGKILL)
    killed = time.monotonic()
    for rank, (process, pipe) in enumerate(processes):
        said = heard(pipe)
        process.join()
        if rank != victim:
            assert process.exitcode == 1, (rank, process.exitcode, said)
            assert said[-1].startswith(f"process {victim} of {count} (from 0) ended"), said[-1]
    seconds = time.monotonic() - killed
    assert seconds < NAMED_SECONDS, seconds
    state = load_state(folder / "training.pt")
    assert state is None or state["counters"]["step"] % SETTINGS.save_every == 0
    return seconds


def main() -> None:
    """Run the cases that the log does not hold yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    FORKS.set_forkserver_preload(["torch", "lightning_fabric", "thinlens.training.loop"])
    log = JsonLines(flags.out / "training.jsonl")
    alone = complete(_fresh(flags.out / "alone"), 1)
    for count in (2, 4):
        straight = complete(_fresh(flags.out / "straight"), count)
        cases = [x for x in log.read() if (x["processes"], x["seed"]) == (count, flags.seed)]
        seconds = [case["seconds"] for case in cases]
        for number in range(len(cases), flags.kills):
            chance = random.Random(f"{flags.seed} {count} {number}")
            folder = _fresh(flags.out / "killed")
            seconds.append(kill_one(folder, count, chance))
            after = chance.choice((count, count, 1, 6 - count))
            weights = complete(folder, after)
            for name, value in weights.items():
                torch.testing.assert_close(value, alone[name], rtol=0, atol=ROUNDING)
                assert after != count or torch.equal(value, straight[name]), name
            lines = [line["step"] for line in JsonLines(folder / "metrics.jsonl").read()]
            assert lines == list(range(5, SETTINGS.steps + 1, 5)), lines
            entry = {"processes": count, "seed": flags.seed, "seconds": round(seconds[-1], 3)}
            log.append({**entry, "resumed_with": after}, fsync=True)
        today = datetime.now(UTC).date()
        print(
            f"kills of one of {count} training processes: 0 of {len(seconds)} failed, the others "
            f"stopped within {max(seconds):.1f} s, {today}",
            flush=True,
        )


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
