"""What do the training tests train, and how do they run it in a process that may be killed?"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thinlens.errors import RunError
from thinlens.signals import Interrupted
from thinlens.training.loop import Settings, Trainer
from thinlens.training.objective import PlainObjective
from thinlens.training.state import load_state, save_state

SETTINGS = Settings(steps=60, warmup=3, save_every=5, epoch_steps=20, learning_rate=1e-2)

FORKS = multiprocessing.get_context("forkserver")
"""Children are forked from a process that has paid for torch already, once."""
FORKS.set_forkserver_preload(["pytest", "torch", "lightning_fabric", "thinlens.training.loop"])


def tiny_net() -> nn.Module:
    """A network with all that makes a resume hard: batch statistics and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Dropout(0.1),
            nn.Conv2d(6, 3, 3, padding=1),
        )


@dataclass(frozen=True)
class TinyData:
    """Blur four random images; some batches hold one NaN."""

    bad: frozenset[int] = frozenset()
    """Steps of an epoch whose batch is spoiled."""

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(np.random.default_rng([seed, epoch, step]).random((4, 3, 8, 8)))
        target = nn.functional.avg_pool2d(image, 3, 1, 1)
        if step in self.bad:
            image[-1, 0, 0, 0] = torch.nan  # the last image: with two processes, rank 1's alone
        return image.float(), target.float()


Signal = tuple[int, int] | None
"""(step, number): the signal that a process sends itself after a step, whatever the clock says."""


class Freezing(PlainObjective):
    """Take the first layer out of the optimizer after ten steps, as SLS does its priorities."""

    frozen_at = 10

    def __init__(self, module: nn.Module, signalled: Signal = None) -> None:
        super().__init__(module)
        self.signalled = signalled

    def after_step(self, step: int) -> None:
        if step == self.frozen_at:
            self.module.get_submodule("0").requires_grad_(False)
        if self.signalled and step == self.signalled[0]:
            os.kill(os.getpid(), self.signalled[1])

    def state_dict(self) -> dict[str, Any]:
        return {"frozen": not next(self.module.parameters()).requires_grad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.get_submodule("0").requires_grad_(not state["frozen"])


def train(
    folder: Path | None,
    settings: Settings = SETTINGS,
    data: TinyData | None = None,
    signalled: Signal = None,
) -> dict[str, Tensor]:
    """Train the tiny network in this process and return its weights."""
    module = tiny_net()
    Trainer(settings, folder).fit(Freezing(module, signalled), data or TinyData())
    return module.state_dict()


def train_exactly() -> dict[str, Tensor]:
    """Train what any number of processes trains alike but for rounding; one batch is spoiled."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Conv2d(3, 3, 3, padding=1)
    settings = Settings(steps=8, warmup=0, optimizer="adam", learning_rate=1e-2)
    Trainer(settings).fit(PlainObjective(module), TinyData(bad=frozenset({3})))
    return module.state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Tell whether two state dicts are the same bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def train_and_tell(pipe: Connection, folder: Path, signalled: Signal = None) -> None:
    """Train, saying each step to the parent; leave the final weights in `folder`."""

    def progress(step: int, steps: int, values: dict[str, float]) -> None:
        pipe.send(step)

    with exit_status(pipe.send):
        module = tiny_net()
        Trainer(SETTINGS, folder, progress).fit(Freezing(module, signalled), TinyData())
        torch.save(module.state_dict(), folder / f"final-{os.environ.get('RANK', '0')}.pt")


def save_and_tell(pipe: Connection, path: Path) -> None:
    """Save states without pause, naming each to the parent once it is on disk."""
    state = load_state(path)
    step = state["counters"]["step"] if state else 0
    while True:
        step += 1
        bulk = {"weight": torch.full((200_000,), float(step))}
        keys = {"settings": {}, "optimizer": {}, "objective": {}, "counters": {"step": step}}
        save_state(path, {**keys, "module": bulk})
        pipe.send(step)


def train_on_full_disk(pipe: Connection, folder: Path, limit: int) -> None:
    """Train on a disk that takes no file larger than `limit` bytes; send the sentence."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with exit_status(pipe.send):
        train(folder)


def train_as_rank(pipe: Connection, rank: int, port: int, folder: Path, signalled: Signal) -> None:
    """Train as one of two processes, in the environment that torchrun makes."""
    os.environ |= torchrun_environment(rank, port)
    train_and_tell(pipe, folder, signalled)
    torch.save(train_exactly(), folder / f"exact-{rank}.pt")


def torchrun_environment(rank: int, port: int) -> dict[str, str]:
    """Return what torchrun tells one of two processes."""
    return {
        "TORCHELASTIC_RUN_ID": "tiny",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }


@contextmanager
def exit_status(say: Callable[[str], None] = logging.error) -> Iterator[None]:
    """End the process as the command line does."""
    torch.set_num_threads(1)
    try:
        yield
    except Interrupted as stop:
        raise SystemExit(stop.exit_status) from None
    except RunError as error:
        say(str(error))
        raise SystemExit(1) from None


@dataclass
class Child:
    """A process that may be killed, and what it says."""

    process: Any
    pipe: Connection

    @classmethod
    def start(cls, act: Callable[..., None], *arguments: Any) -> Child:
        mine, its = FORKS.Pipe()
        process = FORKS.Process(target=act, args=(its, *arguments), daemon=True)
        process.start()
        its.close()
        return cls(process, mine)

    def hear(self) -> Any:
        """Return the next thing the child says, or None when it has ended."""
        try:
            return self.pipe.recv() if self.pipe.poll(60) else None
        except (EOFError, ConnectionResetError):
            return None

    def hear_all(self) -> list[Any]:
        return list(iter(self.hear, None))

    def hear_until(self, step: int) -> None:
        """Listen until the child has come to `step` of its run, or has ended."""
        while (heard := self.hear()) is not None and heard < step:
            pass

    def kill(self) -> None:
        self.process.kill()
        self.process.join(60)

    def end(self) -> int:
        """Wait for the end; return the exit status."""
        self.hear_all()
        self.process.join(60)
        status: int = self.process.exitcode
        return status


def torchrun(folder: Path, lines: str, *options: str) -> None:
    """Run `lines` of Python, which find the tests' own modules, as two processes of torchrun."""
    script = folder / "run.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + lines)
    run_torchrun(*options, str(script))


def run_torchrun(*words: str) -> str:
    """Run a program as two processes of torchrun; return what they print."""
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command],
        check=True,
        env=environment,
        timeout=240,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def pair(folder: Path, signalled: Signal = None) -> list[Child]:
    """Start two processes that train as one; rank 1 alone signals itself."""
    port = free_port()
    return [
        Child.start(train_as_rank, rank, port, folder, told)
        for rank, told in enumerate((None, signalled))
    ]
