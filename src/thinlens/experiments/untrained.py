"""How does a comparison begin with a network that nobody has trained?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thinlens.api import described
from thinlens.checkpoints.format import save
from thinlens.errors import UsageError
from thinlens.experiments.networks import task_of
from thinlens.experiments.recipe import check_options
from thinlens.models import create
from thinlens.tasks.task import Task
from thinlens.training.loop import Trainer
from thinlens.training.objective import Plain, TrainingData
from thinlens.training.settings import Settings


@dataclass(frozen=True)
class Fresh:
    """A network that a recipe describes in place of a checkpoint: [fresh.NAME]."""

    model: str
    """The key of its network in `MODELS`."""
    options: Mapping[str, Any]
    """Fields of its config."""
    steps: int | None = None
    """Of the training of the dense network; None: as many as all methods have. 0: it is left
    untrained and is not judged."""

    def built(self, seed: int) -> tuple[nn.Module, Task]:
        """Make the network with fresh weights, and its task."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = create(self.model, **self.options)
        return module, task_of(self.model, module)

    def lasting(self, settings: Settings) -> Settings:
        """Return the settings with the steps of this network's own training."""
        return settings if self.steps is None else replace(settings, steps=self.steps)

    def train(self, module: nn.Module, task: Task, trainer: Trainer, data: TrainingData) -> None:
        """Train what was `built`, save it in the trainer's folder; what was cut short goes on."""
        if trainer.settings.steps:
            trainer.fit(Plain(module), data)
        if trainer.folder is not None:
            provenance = {"training": asdict(trainer.settings)}
            told = described(task)
            save(trainer.folder, module, model=self.model, task=told, provenance=provenance)


def read_fresh(path: Path, name: str, table: object) -> Fresh:
    """Read [fresh.NAME]: `model`, `steps` if wished, and fields of the network's config."""
    if not isinstance(table, dict) or not isinstance(table.get("model"), str):
        raise UsageError(f"{path}: [fresh.{name}] wants model, the name of a network")
    options = {key: value for key, value in table.items() if key not in ("model", "steps")}
    steps = table.get("steps")
    if steps is not None and (type(steps) is not int or steps < 0):
        raise UsageError(f"{path}: steps = {steps!r} of [fresh.{name}]: wanted 0 or more")
    check_options(path, table["model"], options)
    return Fresh(table["model"], options, steps)
