"""Batches of a folder: its images as inputs of a network, or as targets that a task degrades."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from thinlens.errors import UsageError, check_choice
from thinlens.models import MODELS, image_channels, registry_name
from thinlens.sparsity.dry_run import dry_run
from thinlens.tasks.input_crops import InputCrops, InputFiles, input_files
from thinlens.tasks.task import Task
from thinlens.training.data import (
    Data,
    as_batches,
    data_description,
    folder_targets,
    inputs_only,
)
from thinlens.training.objective import TrainingData

log = logging.getLogger(__name__)

Holds = Literal["inputs", "targets"]
"""What the images of a folder are: inputs of the network, whose outputs are then the targets; or
targets, which the task degrades or pairs."""

PATCHES = (80, 96, 64, 128, 48, 32, 160, 256, 24, 16, 8)
"""Sides of crops, in pixels, in the order in which they are tried: a network may want multiples of
its own, or not less than a window."""


@dataclass(frozen=True)
class DataSource:
    """Data of any kind, and what a folder's images are."""

    data: Data
    holds: str | None
    """inputs, targets, or None: what is usual for the network and the method."""
    task: Task | None
    reads_targets: bool
    """Whether the method learns from true targets."""
    training: bool
    """Whether the method trains; else it calibrates on large crops."""
    crops: Mapping[str, Any] = field(default_factory=dict)
    """Options of the crops of a folder: patch, batch_size, candidates."""

    def holds_for(self, module: nn.Module) -> str:
        """Return what the images of a folder are for `module`: inputs or targets."""
        return folder_holds(module, self.holds, reads_targets=self.reads_targets)

    def batches(self, module: nn.Module) -> TrainingData:
        """Return the batches for `module`; nothing of it is changed."""
        if not isinstance(self.data, str | Path):
            if self.holds is not None:
                raise UsageError(f"data_holds {self.holds!r} is for a folder of images")
            return as_batches(self.data, self.task, training=self.training)
        folder = Path(self.data)
        if self.holds_for(module) == "targets":
            return folder_targets(folder, self.task, training=self.training, crops=self.crops)
        return folder_inputs(folder, self.task, module, image_channels(module), self.crops)


def announce_data(data: TrainingData) -> dict[str, Any]:
    """Log what was taken for inputs and targets; return it as entries of a method's record."""
    description = data_description(data)
    if not description:
        return {}
    log.info("%s%s", description, "; targets: the network's outputs" * inputs_only(data))
    return {"data": description, "data_holds": "inputs" if inputs_only(data) else "targets"}


def folder_holds(module: nn.Module, holds: str | None, *, reads_targets: bool) -> str:
    """Return what a folder holds: `holds`, or what is usual for the network and the method.

    Methods that train on ground truth take targets. Where the dense network is the teacher, a
    folder holds targets for the networks of `MODELS`, whose task degrades them as in the papers,
    and inputs for those of other degradations (`photographs_are_inputs`) and for all others.
    """
    if holds is not None:
        check_choice("data_holds", holds, ("inputs", "targets"))
        return holds
    name = registry_name(module)
    foreign = name is None or (name in MODELS and MODELS[name].photographs_are_inputs)
    return "inputs" if foreign and not reads_targets else "targets"


def folder_inputs(
    folder: Path, task: Task | None, module: nn.Module, channels: int, crops: Mapping[str, Any]
) -> InputCrops:
    """Return crops of a folder's images, or of the inputs of its pairs, as inputs of `module`.

    `task` names the layouts of pairs; without it all images are inputs.
    """
    return input_crops(lambda side: input_files(folder, task, side), module, channels, crops)


def input_crops(
    select: Callable[[int], InputFiles], module: nn.Module, channels: int, crops: Mapping[str, Any]
) -> InputCrops:
    """Return crops of image files in the first size of `PATCHES` on which `module` runs.

    `select` lists the files in which a square of a side fits; `crops` are `patch` and `batch_size`
    of `InputCrops`. A `UsageError` if the network runs on none.
    """
    if channels not in (1, 3):
        raise UsageError(
            f"images of files have 1 or 3 channels and the network takes {channels}: wanted "
            "tensors as data, or channels="
        )
    settings = {key: value for key, value in crops.items() if key not in ("candidates", "hard")}
    if crops.get("hard"):
        raise UsageError("hard pairs need clean images, and these images are a network's inputs")
    patch = settings.pop("patch", None)
    sides = PATCHES if patch is None else (patch,)
    failure: UsageError | None = None
    for side in sides:
        files = select(side)
        if files.largest_patch < side:
            failure = failure or UsageError(f"{files.source}: none holds a crop of {side}x{side}")
            continue
        try:
            dry_run(module, (1, channels, side, side))
        except UsageError as error:
            failure = error
            continue
        return InputCrops(files.paths, channels, side, source=files.source, **settings)
    raise failure or UsageError("wanted a patch")
