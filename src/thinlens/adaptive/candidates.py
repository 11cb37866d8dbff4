"""Which networks may restore a tile, and what does each cost?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

from thinlens.checkpoints.format import Checkpoint
from thinlens.errors import UsageError
from thinlens.images.resize import enlarge
from thinlens.models import MODELS
from thinlens.models.fingerprint import fingerprint
from thinlens.models.legacy_fingerprint import fingerprints
from thinlens.restoration.network import Network
from thinlens.sparsity.summary import price
from thinlens.tasks import make_task
from thinlens.tasks.task import Task

Macs = Callable[[tuple[int, int]], int]
"""Maps the (height, width) of a tile to the multiply-adds it costs."""

EngineFactory = Callable[[nn.Module], Network]
"""What makes a module run: itself, or an engine."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to restore a tile."""

    name: str
    network: Network
    macs: Macs
    checkpoint: Checkpoint | None = None
    """None for the one that costs nothing."""

    @property
    def identity(self) -> str:
        """The fingerprint of its network; its name where it has no weights."""
        return self.identities[0]

    @property
    def identities(self) -> tuple[str, ...]:
        """Its identity and those that earlier versions gave it."""
        return (self.name,) if self.checkpoint is None else fingerprints(self.checkpoint.module)


def collect_candidates(
    checkpoints: Mapping[str, Checkpoint], run: EngineFactory, tile: tuple[int, int]
) -> list[Candidate]:
    """Return the candidates by the cost of a `tile` (height, width), the dearest first.

    The last one is free: bicubic interpolation for super-resolution, else the tile as it is.
    """
    task = common_task(checkpoints)
    found = [
        Candidate(name, run(checkpoint.module), count_macs(checkpoint, task), checkpoint)
        for name, checkpoint in checkpoints.items()
    ]
    found.sort(key=lambda candidate: candidate.macs(tile), reverse=True)
    return [*found, fallback(task)]


def fallback(task: Task) -> Candidate:
    """Return what restores a tile for nothing; MACs do not count bicubic's 16 taps."""
    if task.scale > 1:
        return Candidate("bicubic", partial(enlarge, scale=task.scale), lambda size: 0)
    return Candidate("identity", unchanged, lambda size: 0)


def unchanged(tile: Tensor) -> Tensor:
    """Return a tile as it is."""
    return tile


def common_task(checkpoints: Mapping[str, Checkpoint]) -> Task:
    """Return the task of all candidates; raise `UsageError` where they do not go together."""
    if not checkpoints:
        raise UsageError("wanted at least one checkpoint to choose from")
    first, *others = checkpoints
    for name, checkpoint in checkpoints.items():
        if checkpoint.model not in MODELS or MODELS[checkpoint.model].answers != "image":
            raise UsageError(f"{name} is a {checkpoint.model}: wanted networks that make images")
    for name in others:
        one, other = checkpoints[first].task, checkpoints[name].task
        if one != other:
            raise UsageError(
                f"{name} is for {_said(other)} and {first} for {_said(one)}: "
                "wanted candidates of one task and scale"
            )
    seen: dict[str, str] = {}
    for name, checkpoint in checkpoints.items():
        same = seen.setdefault(fingerprint(checkpoint.module), name)
        if same != name:
            raise UsageError(f"{name} and {same} are the same network: wanted each once")
    return make_task(**checkpoints[first].task)


def count_macs(checkpoint: Checkpoint, task: Task) -> Macs:
    """Return what a network costs by the size of its input, counted as SLS counts."""

    @cache
    def macs(size: tuple[int, int]) -> int:
        shape = (task.channels, *size)
        return price(checkpoint.module, checkpoint.patterns, shape).total.macs

    return macs


def candidate_names(candidates: Sequence[Candidate]) -> list[str]:
    """Return the candidates' names, the dearest first."""
    return [candidate.name for candidate in candidates]


def _said(task: Mapping[str, Any]) -> str:
    own = ", ".join(f"{key} {value}" for key, value in task.items() if key != "name")
    return f"{task['name']} ({own})"
