"""One image in, one image out: networks that return several tensors, or write into their input."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.models.source import set_source, source_of

OutputName = int | str
"""The index of a tensor in a list or tuple, or its key in a dictionary."""


def select_output(result: Any, output: OutputName | None = None) -> Tensor:
    """Return the tensor called `output` of what a network returned; by default its last one.

    A tensor is returned as it is. Raises `UsageError` where there is no such tensor.

    >>> import torch
    >>> small, large = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8)
    >>> select_output([small, large]).shape[-1]
    8
    >>> select_output({"x1": small, "x2": large}, "x1").shape[-1]
    4
    """
    if isinstance(result, Tensor):
        return result
    named: dict[OutputName, Any]
    if isinstance(result, Mapping):
        named = dict(result)
    elif isinstance(result, list | tuple):
        named = dict(enumerate(result))
        output = output + len(result) if isinstance(output, int) and output < 0 else output
    else:
        raise UsageError(f"the network returns a {type(result).__name__}: wanted an image tensor")
    tensors = {key: x for key, x in named.items() if isinstance(x, Tensor)}
    nested = {key: x for key, x in named.items() if isinstance(x, list | tuple | Mapping)}
    if output is None and named and (last := list(named)[-1]) in nested:
        return select_output(nested[last])
    if output in nested:
        return select_output(nested[output])
    if not tensors or (output is not None and output not in tensors):
        listed = ", ".join(map(repr, tensors)) or "none"
        raise UsageError(f"output {output!r}: the network returns the tensors {listed}")
    return tensors[list(tensors)[-1] if output is None else output]


@dataclass(frozen=True)
class OutputSelection:
    """A forward hook that replaces what a network returns by one tensor of it."""

    output: OutputName | None = None
    """The tensor that is kept; None: the last one."""

    def __call__(self, module: nn.Module, inputs: Any, result: Any) -> Tensor:
        return select_output(result, self.output)


@dataclass(frozen=True)
class InputCopy:
    """A forward hook that gives a network copies of its inputs, into which it may write.

    Some published networks do (RCAN: `x *= 255`): a second run on the same image would see another
    one.
    """

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs)


def keep_output(module: nn.Module, output: OutputName | None = None) -> nn.Module:
    """Return a network with the weights of `module` that returns one of its output tensors.

    It never changes its input.

    Lists, tuples and dictionaries lose all but the last tensor, or the one called `output`, an
    index or a key; a network that returns one tensor computes what it did. The result shares
    parameters and child modules with `module`, which is not changed; their names are the same, and
    copies (`copy.deepcopy`) and pickles select alike.

    >>> import torch
    >>> class Scales(nn.Conv2d):
    ...     def forward(self, image):
    ...         small = super().forward(image)
    ...         return [small, small.repeat_interleave(2, -1)]
    >>> keep_output(Scales(3, 3, 1))(torch.zeros(1, 3, 4, 4)).shape
    torch.Size([1, 3, 4, 8])
    """
    if output is not None and (isinstance(output, bool) or not isinstance(output, int | str)):
        raise UsageError(f"output {output!r}: wanted an index or a key of the network's outputs")
    kept = copy.copy(module)
    hooks = [
        (key, hook)
        for key, hook in module._forward_hooks.items()
        if not isinstance(hook, OutputSelection)
    ]
    if output is None and len(hooks) < len(module._forward_hooks):
        return module  # it keeps one output already
    kept._forward_hooks = OrderedDict(hooks)
    kept.register_forward_hook(OutputSelection(output))
    kept._forward_pre_hooks = OrderedDict(
        (key, hook)
        for key, hook in module._forward_pre_hooks.items()
        if not isinstance(hook, InputCopy)
    )
    kept.register_forward_pre_hook(InputCopy())
    source = source_of(module)
    if source is not None and output is not None:
        set_source(kept, replace(source, output=output))
    return kept


def kept_output(module: nn.Module) -> OutputSelection | None:
    """Return the selection that `keep_output` gave a network; None if it has none."""
    hooks = module._forward_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, OutputSelection)), None)
