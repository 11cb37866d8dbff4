"""Which network does a word of the command line mean: a name, or a checkpoint?"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from thinlens.api import described, load
from thinlens.checkpoints.format import Checkpoint, packed_bytes
from thinlens.checkpoints.shipped import shipped
from thinlens.errors import UsageError
from thinlens.models import MODELS, image_channels, network
from thinlens.sparsity.allocation import cost_tables
from thinlens.sparsity.masking import attach, prunable_layer, strip
from thinlens.sparsity.pattern import Pattern, from_ranks
from thinlens.sparsity.prunable import find_layers
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.tasks import make_task
from thinlens.tasks.task import Task

PROBE = (64, 64)
"""Height and width of an input that shows which layers run; none of our networks wants more."""


def fresh(
    name: str,
    scale: int | None = None,
    width: Fraction | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """Make the network called `name`, or a variant of it, with fresh weights; `options` are fields
    of its config."""
    entry = network(name)
    if scale is not None and not hasattr(entry.config, "scale"):
        raise UsageError(f"--scale {scale}: {name} does not enlarge images")
    config = entry.configured(**options if scale is None else {**options, "scale": scale})
    return entry.build(entry.narrowed(config, width) if width is not None else config)


def saved(source: str) -> Checkpoint:
    """Load what `source` names, where it can also be a network; `UsageError` if it is neither."""
    known = [*MODELS, *shipped()]
    if not Path(source).exists() and source not in known:
        raise UsageError(
            f"{source} is neither a checkpoint nor a network: wanted a checkpoint "
            f"folder or one of {', '.join(known)}"
        )
    return load(source)


def start_from(checkpoints: Sequence[str], name: str, module: nn.Module) -> None:
    """Give `module`, the network called `name`, the mean of the weights of dense checkpoints of it.

    Runs that began at the same weights often average to a better network than any of them
    (Wortsman et al., "Model soups", ICML 2022).
    """
    states = [_dense_weights(checkpoint, name, module) for checkpoint in checkpoints]
    mean = {key: sum(state[key] for state in states) / len(states) for key in states[0]}
    module.load_state_dict(mean if len(states) > 1 else states[0])


def _dense_weights(checkpoint: str, name: str, module: nn.Module) -> dict[str, Tensor]:
    found = load(checkpoint)
    if found.model != name or found.module.config != module.config:
        raise UsageError(
            f"{checkpoint} holds {found.model} with {found.module.config}: "
            f"wanted {name} with {module.config} to start from"
        )
    if found.patterns or found.narrowed:
        raise UsageError(f"{checkpoint} is pruned: wanted a dense checkpoint to start from")
    return found.module.state_dict()


def task_of(name: str, module: nn.Module, **options: Any) -> Task:
    """Make the task that the network called `name` was made for; `options` change it."""
    entry = network(name)
    config: Any = module.config
    own: dict[str, Any] = {}  # the other tasks are RGB, at one size
    if entry.task == "sr":
        own = {"scale": config.scale}
    elif entry.task == "denoise":
        own = {"channels": entry.channels}
    return make_task(entry.task, **{**own, **options})


def unsaved(name: str, module: nn.Module, patterns: dict[str, Pattern]) -> Checkpoint:
    """Return what a checkpoint of this network would hold."""
    task = described(task_of(name, module))
    return Checkpoint(module, patterns, {}, name, task, {}, packed_bytes(module, patterns))


def uniform(module: nn.Module, channels: int, n: int, m: int) -> dict[str, Pattern]:
    """Return the patterns that keep the `n` largest of every `m` in all prunable layers."""
    patterns = {}
    for name in cost_tables(find_layers(module, (1, channels, *PROBE), m=m), m):
        layer = prunable_layer(module, name)
        patterns[name] = from_ranks(magnitude_ranks(layer.weight, layer, m), n, m)
    return patterns


def thinned(module: nn.Module, n: int, m: int) -> nn.Module:
    """Make a copy that keeps the `n` largest of every `m` weights in all prunable layers."""
    thin = copy.deepcopy(module)
    attach(thin, uniform(thin, image_channels(thin), n, m))
    return strip(thin)[0]


def input_shape(task: Task, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return `[C, h, w]` of the input whose output has `size` (height, width), rounded down."""
    height, width = (side // task.scale for side in size)
    if min(height, width) < 1:
        raise UsageError(f"--size {size[1]}x{size[0]}: less than one input pixel at x{task.scale}")
    return task.channels, height, width
