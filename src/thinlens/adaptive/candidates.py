"""The candidates of a bundle: networks that may restore a tile, and the cost of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from torch import Tensor

from thinlens.checkpoints.format import Checkpoint
from thinlens.errors import UsageError
from thinlens.images.resize import bicubic_upsample
from thinlens.models import MODELS
from thinlens.models.fingerprint import fingerprint
from thinlens.models.legacy_fingerprint import fingerprints
from thinlens.restoration.network import EngineFactory, Network
from thinlens.sparsity.summary import summarize
from thinlens.tasks import make_task
from thinlens.tasks.task import Task

Macs = Callable[[tuple[int, int]], int]
"""Maps the (height, width) of a tile to its multiply-adds."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to restore a tile."""

    name: str
    network: Network
    macs: Macs
    checkpoint: Checkpoint | None = None
    """None for the fallback, which has no weights and costs nothing."""

    @property
    def identity(self) -> str:
        """The fingerprint of its network; its name where it has no weights."""
        return self.identities[0]

    @property
    def identities(self) -> tuple[str, ...]:
        """Its identity, then those of earlier versions."""
        return (self.name,) if self.checkpoint is None else fingerprints(self.checkpoint.module)


def collect_candidates(
    checkpoints: Mapping[str, Checkpoint], run: EngineFactory, tile: tuple[int, int]
) -> list[Candidate]:
    """Return the candidates by their cost on a `tile` (height, width), the most expensive first.

    The last one is the fallback: bicubic interpolation for super-resolution, else the identity.
    """
    task = common_task(checkpoints)
    networks = [
        Candidate(name, run(checkpoint.module), count_macs(checkpoint, task), checkpoint)
        for name, checkpoint in checkpoints.items()
    ]
    networks.sort(key=lambda candidate: candidate.macs(tile), reverse=True)
    return [*networks, fallback(task)]


def fallback(task: Task) -> Candidate:
    """Return the candidate without a network; the 16 taps of bicubic interpolation are no MACs."""
    if task.scale > 1:
        return Candidate("bicubic", partial(bicubic_upsample, scale=task.scale), lambda size: 0)
    return Candidate("identity", unchanged, lambda size: 0)


def unchanged(tile: Tensor) -> Tensor:
    """Return a tile as it is."""
    return tile


def common_task(checkpoints: Mapping[str, Checkpoint]) -> Task:
    """Return the task of all candidates; raise `UsageError` where they are not of one task."""
    if not checkpoints:
        raise UsageError("wanted at least one checkpoint to choose from")
    first, *others = checkpoints
    for name, checkpoint in checkpoints.items():
        if checkpoint.model not in MODELS or MODELS[checkpoint.model].output_kind != "image":
            raise UsageError(f"{name} is a {checkpoint.model}: wanted networks that make images")
    for name in others:
        one, other = checkpoints[first].task, checkpoints[name].task
        if one != other:
            raise UsageError(
                f"{name} is for {_description(other)} and {first} for {_description(one)}: "
                "wanted candidates of one task and scale"
            )
    names: dict[str, str] = {}
    for name, checkpoint in checkpoints.items():
        same = names.setdefault(fingerprint(checkpoint.module), name)
        if same != name:
            raise UsageError(f"{name} and {same} are the same network: wanted each once")
    return make_task(**checkpoints[first].task)


def count_macs(checkpoint: Checkpoint, task: Task) -> Macs:
    """Return a network's multiply-adds as a function of the input's size, counted as in SLS."""

    @cache
    def macs(size: tuple[int, int]) -> int:
        shape = (task.channels, *size)
        return summarize(checkpoint.module, checkpoint.patterns, shape).total.macs

    return macs


def candidate_names(candidates: Sequence[Candidate]) -> list[str]:
    """Return the candidates' names, the most expensive first."""
    return [candidate.name for candidate in candidates]


def _description(task: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key} {value}" for key, value in task.items() if key != "name")
    return f"{task.get('name')} ({options})"
