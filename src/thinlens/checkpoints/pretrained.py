"""Import of pretrained weights of other training programs: of our networks, and of spandrel's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thinlens.checkpoints.default_tasks import (
    default_task,
    described,
    foreign_task,
    measured_task,
)
from thinlens.checkpoints.detection import Fit, Mismatch, compare_state, detect, fill, spandrel_fit
from thinlens.checkpoints.factories import is_factory_name
from thinlens.checkpoints.factory_weights import network_by_factory
from thinlens.checkpoints.format import Checkpoint, load, packed_bytes
from thinlens.checkpoints.shipped import resolve
from thinlens.checkpoints.spandrel_networks import PREFIX
from thinlens.checkpoints.state_dicts import Contents, contents_of, without_counters
from thinlens.checkpoints.weights_file import read_weights
from thinlens.errors import UsageError
from thinlens.models import model_entry
from thinlens.models.output import OutputName
from thinlens.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Imported:
    """A network that was filled from a file of weights."""

    module: nn.Module
    """In evaluation mode. One of another package carries its source."""
    model: str
    """A key of `MODELS`, or `spandrel:<architecture>`."""
    task: Task
    """Its own, or what its scale and its architecture show."""


def import_network(
    file: Path,
    model: str | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    output: OutputName | None = None,
    **options: Any,
) -> Imported:
    """Build the network that a file of weights belongs to, and fill it.

    The file is a .pth, .pt, .ckpt, .bin or .safetensors of any training program; no code of it
    runs. Without `model` the network is detected: ours first, then spandrel's. `model` may be a
    function that builds it, `package.module:function`, with JSON `arguments`; `output` is the index
    or the key of the tensor that is kept where it returns several. `options` are fields of the
    config of one of ours. Raises `UsageError` if no network fits, or if values are not finite.
    """
    if model is not None and is_factory_name(model):
        contents = contents_of(read_weights(file), file)
        module = network_by_factory(contents, model, arguments or {}, output)
        return Imported(module, model, measured_task(module))
    if arguments is not None or output is not None:
        raise UsageError(
            "arguments and output are a factory's: wanted the model package.module:function, too"
        )
    if model is not None and not model.startswith(PREFIX):
        model_entry(model).make_config(**options)  # a mistake in them comes before the file's
    contents = contents_of(read_weights(file), file)
    if model is None:
        if options:
            raise UsageError(f"{', '.join(options)} is of a network of ours: wanted --model, too")
        module, name, description = detect(contents)
    elif model.startswith(PREFIX):
        if options:
            raise UsageError(f"{model} has no option {min(options)!r}: the file shows all")
        module, name, description = _named_architecture(contents, model.removeprefix(PREFIX))
    else:
        module, name, description = _named(contents, model, **options), model, None
    if description is None:
        return Imported(module, name, default_task(name, module))
    task = foreign_task(name, description.scale, description.input_channels)
    return Imported(module, name, task)


def import_weights(file: Path, model: str, **options: Any) -> nn.Module:
    """Build the network `model` with config `options` and fill it from a file of weights.

    As `import_network`: one that does not hold exactly the network's tensors is a `UsageError`.
    """
    return import_network(file, model, **options).module


def read_source(source: str | Path) -> Checkpoint:
    """Load a checkpoint folder, a file of weights, or a shipped network by its name."""
    path = Path(source)
    return import_checkpoint(path) if path.is_file() else load(resolve(str(source)))


def import_checkpoint(file: Path) -> Checkpoint:
    """Return a file of weights as the checkpoint that `thinlens import` would write."""
    imported = import_network(file)
    size = packed_bytes(imported.module, {})
    task = described(imported.task)
    return Checkpoint(imported.module, {}, {}, imported.model, task, {}, size)


def _named(contents: Contents, model: str, **options: Any) -> nn.Module:
    entry = model_entry(model)
    config = entry.make_config(**options)
    mismatches: list[Mismatch] = []
    for state in contents.views():
        outcome = compare_state(model, entry, config, state)
        if isinstance(outcome, Fit):
            with torch.random.fork_rng(devices=[]):
                module = entry.build(config)
            return fill(module, outcome.state, contents)
        mismatches.append(outcome)
    nearest = min(mismatches, key=lambda mismatch: mismatch.names)
    raise UsageError(f"{contents.file} does not fit {model}: {nearest}; {contents.description()}")


def _named_architecture(contents: Contents, name: str) -> tuple[nn.Module, str, Any]:
    refusals = []
    for state in contents.views():
        for candidate in (state, without_counters(state)):
            try:
                return spandrel_fit(name, candidate, contents)
            except UsageError as error:
                refusals.append(str(error))
    raise UsageError(
        f"{contents.file} does not fit {PREFIX}{name}: {refusals[0]}; {contents.description()}"
    )
