"""Weights of a network of the user's own: built by a factory that the user names, and filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from thinlens.checkpoints.blueprint import check_json
from thinlens.checkpoints.detection import fill
from thinlens.checkpoints.factories import allowing, call_factory, find_factory
from thinlens.checkpoints.state_dicts import Contents, as_floats, without_counters
from thinlens.errors import UsageError
from thinlens.models.entry import StateDict
from thinlens.models.output import OutputName, keep_output
from thinlens.models.source import NetworkSource, set_source

MOST_DIFFERENCES = 3
"""Tensors that an error names, at most."""


def network_by_factory(
    contents: Contents,
    name: str,
    arguments: Mapping[str, Any],
    output: OutputName | None = None,
) -> nn.Module:
    """Call the factory `package.module:function` and fill its network with a file's tensors.

    Whoever names a factory allows it; modules in the current folder can be among them. Of several
    outputs the network returns the last, or the one called `output`. Raises `UsageError` where the
    factory is not there or fails, or where the tensors differ.
    """
    values = check_json(arguments)
    with allowing((name.partition(":")[0],)), torch.random.fork_rng(devices=[]):
        module = call_factory(name, find_factory(name), values)
    set_source(module, NetworkSource(name, values))
    expected = module.state_dict()
    differences = []
    for state in map(as_floats, contents.views()):
        for candidate in (state, without_counters(state)):
            difference = _difference(candidate, expected)
            if not difference:
                return keep_output(fill(module, candidate, contents), output)
            differences.append(difference)
    nearest = min(differences, key=len)
    raise UsageError(
        f"{contents.file} does not fit {name}: {'; '.join(nearest[:MOST_DIFFERENCES])}; "
        f"{contents.description()}"
    )


def _difference(state: StateDict, expected: StateDict) -> list[str]:
    """List how a state dict differs from the one of a network."""
    missing = [f"{name} is missing" for name in expected if name not in state]
    more = [f"{name} is not the network's" for name in state if name not in expected]
    return [
        *missing,
        *more,
        *(
            f"{name} is {list(state[name].shape)}, not {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ),
    ]
