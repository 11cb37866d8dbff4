"""Networks by name or checkpoint: initial weights, uniform N:M patterns, default tasks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from thinlens.api import load_checkpoint
from thinlens.checkpoints.default_tasks import default_task, described
from thinlens.checkpoints.format import Checkpoint, packed_bytes
from thinlens.checkpoints.shipped import list_shipped
from thinlens.errors import UsageError
from thinlens.models import MODELS, image_channels, model_entry, registry_name
from thinlens.sparsity.allocation import cost_tables
from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.masking import attach, prunable_layer, strip
from thinlens.sparsity.pattern import Pattern, pattern_from_ranks
from thinlens.sparsity.prunable import find_layers
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.tasks.task import Task

PROBE_SIZE = (64, 64)
"""Height and width, in pixels, of the input by which prunable layers are traced."""

HD_SIZE = (720, 1280)
"""Height and width, in pixels, of the output for which SLS counts multiply-adds."""


def initialize_network(
    name: str,
    scale: int | None = None,
    width: Fraction | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """Build the network called `name`, or a variant of it, with initial weights.

    `width` scales its hidden widths; `options` are fields of its config.
    """
    entry = model_entry(name)
    if scale is not None and not hasattr(entry.config, "scale"):
        raise UsageError(f"--scale {scale}: {name} does not enlarge images")
    config = entry.make_config(**options if scale is None else {**options, "scale": scale})
    return entry.build(entry.scale_widths(config, width) if width is not None else config)


def load_source(source: str) -> Checkpoint:
    """Load a checkpoint or a file of weights; `UsageError` if it is neither, nor a known name."""
    names = [*MODELS, *list_shipped()]
    if not Path(source).exists() and source not in names:
        raise UsageError(
            f"{source} is neither a checkpoint nor a network: wanted a checkpoint "
            f"folder, a file of weights, or one of {', '.join(names)}"
        )
    return load_checkpoint(source)


def load_mean_weights(checkpoints: Sequence[str], name: str, module: nn.Module) -> None:
    """Load the mean of the weights of dense checkpoints into `module`, the network called `name`.

    The mean of runs from the same initial weights is often better than each of them (Wortsman et
    al., "Model soups", ICML 2022).
    """
    states = [_dense_weights(checkpoint, name, module) for checkpoint in checkpoints]
    mean = {key: sum(state[key] for state in states) / len(states) for key in states[0]}
    module.load_state_dict(mean if len(states) > 1 else states[0])


def _dense_weights(checkpoint: str, name: str, module: nn.Module) -> dict[str, Tensor]:
    dense = load_checkpoint(checkpoint)
    if dense.model != name or dense.module.config != module.config:
        raise UsageError(
            f"{checkpoint} holds {dense.model} with {dense.module.config}: "
            f"wanted {name} with {module.config} to start from"
        )
    if dense.patterns or dense.resized:
        raise UsageError(f"{checkpoint} is pruned: wanted a dense checkpoint to start from")
    return dense.module.state_dict()


def as_checkpoint(name: str, module: nn.Module, patterns: dict[str, Pattern]) -> Checkpoint:
    """Return the checkpoint of a network in memory."""
    task = described(default_task(name, module))
    return Checkpoint(module, patterns, {}, name, task, {}, packed_bytes(module, patterns))


def uniform_patterns(module: nn.Module, channels: int, n: int, m: int) -> dict[str, Pattern]:
    """Return patterns that keep the `n` largest of every `m` weights of all prunable layers."""
    patterns = {}
    for name in cost_tables(find_layers(module, (1, channels, *PROBE_SIZE), m=m), m):
        layer = prunable_layer(module, name)
        patterns[name] = pattern_from_ranks(magnitude_ranks(layer.weight, layer, m), n, m)
    return patterns


def prune_uniformly(module: nn.Module, n: int, m: int) -> nn.Module:
    """Return a copy that keeps the `n` largest of every `m` weights of all prunable layers."""
    thin = copy.deepcopy(module)
    attach(thin, uniform_patterns(thin, image_channels(thin), n, m))
    return strip(thin)[0]


def input_shape(task: Task, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return the shape `[C, h, w]` of the input for an output of `size` (height, width)."""
    height, width = (side // task.scale for side in size)
    if min(height, width) < 1:
        raise UsageError(f"--size {size[1]}x{size[0]}: less than one input pixel at x{task.scale}")
    return task.channels, height, width


SIDE_MULTIPLES = (8, 16, 32, 64, 128)
"""What sides of images are multiples of, in networks that do not take any size."""

SQUARES = (64, 128, 96, 48, 256, 224)
"""Sides of squares, for networks that take no other images."""


def runnable_shape(module: nn.Module, task: Task, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return the shape `[C, h, w]` of an input for an output of `size`, on which `module` runs.

    Networks of `MODELS` run on any size. For others the sides are rounded up to the first multiple
    of `SIDE_MULTIPLES`, or it is a square that they take.
    """
    _, height, width = shape = input_shape(task, size)
    if registry_name(module) is not None:
        return shape
    channels = image_channels(module)
    sizes = [(_rounded_up(height, x), _rounded_up(width, x)) for x in (1, *SIDE_MULTIPLES)]
    for rounded in [*sizes, *((side, side) for side in SQUARES)]:
        try:
            dry_run(module, (1, channels, *rounded))
        except UsageError:
            continue
        return channels, *rounded
    return channels, height, width


def _rounded_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
