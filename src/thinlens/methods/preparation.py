"""Preparation of any network for pruning: one output, a network that can be copied."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from thinlens.errors import UsageError
from thinlens.models import registry_name
from thinlens.models.copying import copy_network
from thinlens.models.input_channels import CHANNELS_ATTRIBUTE
from thinlens.models.output import OutputName, keep_output
from thinlens.sparsity.dry_run import dry_run

OUTPUT_AXES = (2, 4)
"""Axes of what networks may return: scores `[B, classes]`, or images `[B, C, h, w]`."""

DEFAULT_SIZE = (64, 64)
"""Height and width, in pixels, of the input for which costs are counted where there is no data."""


def with_channels(module: nn.Module, channels: int | None) -> nn.Module:
    """Return a network with the weights of `module` that states the channels of its images.

    None states nothing.
    """
    if channels is None:
        return module
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise UsageError(f"channels {channels!r}: wanted the channels of an image, such as 3")
    stated = copy.copy(module)
    setattr(stated, CHANNELS_ATTRIBUTE, channels)
    return stated


def prepared(module: nn.Module, example: Sequence[int], output: OutputName | None) -> nn.Module:
    """Return a network with the weights of `module` that every method can run and copy.

    Of several output tensors it returns one: the last, or the one called `output`. It never changes
    its input. Raises
    `UsageError` for a network that does not run on an input shaped `example`, that returns no
    images or scores, or that cannot be copied. `module` is not changed.
    """
    if registry_name(module) is not None and output is None:
        return module
    run = dry_run(module, example)
    if output is not None or not run.single or run.writes_input:
        module = keep_output(module, output)
        run = dry_run(module, example)
    shape = tuple(run.outputs[-1]) if run.outputs else ()
    if len(shape) not in OUTPUT_AXES:
        raise UsageError(
            f"{type(module).__name__} returns a tensor shaped {shape}: wanted images "
            "[B, C, h, w] or scores [B, classes]; of several outputs, output= names the one that "
            "is kept"
        )
    return copy_network(module)
