"""Networks without weights in a comparison's recipe, trained before they are pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thinlens.checkpoints.default_tasks import default_task, described
from thinlens.checkpoints.format import save
from thinlens.errors import UsageError
from thinlens.experiments.recipe import check_options
from thinlens.models import create
from thinlens.tasks.task import Task
from thinlens.training.loop import Trainer
from thinlens.training.objective import PlainObjective, TrainingData
from thinlens.training.settings import Settings


@dataclass(frozen=True)
class UntrainedNetwork:
    """The table [fresh.NAME] of a recipe, in place of a checkpoint."""

    model: str
    """The registry name of the network in `MODELS`."""
    options: Mapping[str, Any]
    """Fields of its config."""
    steps: int | None = None
    """Training steps of the dense network; None: those of all methods. 0: it is neither trained nor
    evaluated."""

    def build(self, seed: int) -> tuple[nn.Module, Task]:
        """Return the network with initial weights drawn from `seed`, and its task."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = create(self.model, **self.options)
        return module, default_task(self.model, module)

    def settings(self, settings: Settings) -> Settings:
        """Return training settings with the steps of this network."""
        return settings if self.steps is None else replace(settings, steps=self.steps)

    def train(self, module: nn.Module, task: Task, trainer: Trainer, data: TrainingData) -> None:
        """Train the built network, or resume its training, and save it in the trainer's folder."""
        if trainer.settings.steps:
            trainer.fit(PlainObjective(module), data)
        if trainer.folder is not None:
            save(
                trainer.folder,
                module,
                model=self.model,
                task=described(task),
                provenance={"training": asdict(trainer.settings)},
            )


def read_untrained(path: Path, name: str, table: object) -> UntrainedNetwork:
    """Read [fresh.NAME]: `model`, optionally `steps`, and fields of the network's config."""
    if not isinstance(table, dict) or not isinstance(table.get("model"), str):
        raise UsageError(f"{path}: [fresh.{name}] wants model, the name of a network")
    options = {key: value for key, value in table.items() if key not in ("model", "steps")}
    steps = table.get("steps")
    if steps is not None and (type(steps) is not int or steps < 0):
        raise UsageError(f"{path}: steps = {steps!r} of [fresh.{name}]: wanted 0 or more")
    check_options(path, table["model"], options)
    return UntrainedNetwork(table["model"], options, steps)
