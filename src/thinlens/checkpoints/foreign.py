"""Names of networks that are saved: of ours, of spandrel, or of a factory that builds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from thinlens.checkpoints import spandrel_networks
from thinlens.checkpoints.blueprint import check_json, is_foreign
from thinlens.checkpoints.config_file import STORED_TYPE
from thinlens.checkpoints.factories import (
    call_factory,
    find_factory,
    import_factory,
    is_factory_name,
)
from thinlens.checkpoints.safe_build import PROBE_SIDE
from thinlens.errors import UsageError
from thinlens.models import MODELS, image_channels, registry_name
from thinlens.models.output import kept_output
from thinlens.models.source import NetworkSource, set_source, source_of
from thinlens.sparsity.recomputed import merge_recomputed

STORES = {"fp16": STORED_TYPE, STORED_TYPE: STORED_TYPE}
"""The values of `store=` and the types that they stand for."""


def stored_type(store: str | None) -> str | None:
    """Return the type in which values are stored; an unknown one is a `UsageError`.

    >>> stored_type("fp16")
    'float16'
    """
    if store is None:
        return None
    if store not in STORES:
        raise UsageError(f"store={store!r}: wanted fp16, or nothing for the network's own type")
    return STORES[store]


def named_network(
    module: nn.Module,
    model: str | None,
    arguments: Mapping[str, Any] | None = None,
    *,
    resized: bool = False,
) -> str:
    """Return the name by which a checkpoint can build `module`, and let the module carry it.

    That is `model`, or without it the name of its kind in `MODELS`, of the source that it carries,
    or of its architecture in spandrel. A factory is called at once, to see that it builds the same
    tensors; with `resized` they may be larger, as channels were pruned. Raises `UsageError`
    where no name is known.
    """
    carried = source_of(module)
    if model is not None and carried is not None and carried.name == model and arguments is None:
        return model
    if model is not None and is_factory_name(model):
        return _factory_source(module, model, arguments or {}, resized)
    if arguments is not None:
        raise UsageError("arguments= are a factory's: wanted model='package.module:function', too")
    if model is not None and not is_foreign(model):
        return model
    source = carried or _spandrel_source(module)
    if source is None:
        name = registry_name(module)
        if name is not None and model is None:
            return name
        raise UsageError(
            f"{type(module).__name__} is no network of thinlens or spandrel: wanted "
            "model='package.module:function', a function that builds it, and arguments={...}"
        )
    if model not in (None, source.name):
        raise UsageError(f"this network is {source.name}, not {model}")
    return source.name


def unpruned_network(model: str, module: nn.Module) -> nn.Module:
    """Build what `module`, called `model` in a checkpoint, was before channels were pruned."""
    if model in MODELS:
        return MODELS[model].build(module.config)
    source = source_of(module)
    if source is None:
        raise UsageError(f"{type(module).__name__} carries no source to build it by")
    if source.name.startswith(spandrel_networks.PREFIX):
        name = source.name.removeprefix(spandrel_networks.PREFIX)
        whole = spandrel_networks.build_published(name, source.parameters)
    else:
        whole = call_factory(source.name, find_factory(source.name), source.parameters)
    return _merged(whole) if source.merged else whole


def _spandrel_source(module: nn.Module) -> NetworkSource | None:
    name = spandrel_networks.source_name(module)
    if name is None:
        return None
    source = NetworkSource(name, spandrel_networks.json_parameters(module))
    set_source(module, source)
    return source


def _merged(module: nn.Module) -> nn.Module:
    """Merge weights that a forward pass computes, as pruning does; a copy, or the module itself."""
    shape = (1, image_channels(module), PROBE_SIDE, PROBE_SIDE)
    return merge_recomputed(module.eval(), shape)


def _factory_source(
    module: nn.Module, model: str, arguments: Mapping[str, Any], resized: bool
) -> str:
    """Let `module` carry a factory that builds its tensors; one that does not is refused."""
    values = check_json(arguments)
    with torch.random.fork_rng(devices=[]):
        built = call_factory(model, import_factory(model), values)
    names, wanted = set(built.state_dict()), set(module.state_dict())
    previous = source_of(module)
    merged = False
    if names != wanted:
        built = _merged(built)
        names, merged = set(built.state_dict()), True
    if names != wanted:
        difference = ", ".join(sorted(names ^ wanted)[:3])
        raise UsageError(
            f"{model} builds a network of other tensors than this {type(module).__name__}: "
            f"{difference}"
        )
    kept = kept_output(module)
    if not resized:
        state = built.state_dict()
        for name, tensor in module.state_dict().items():
            shape = state[name].shape
            if shape != tensor.shape:
                raise UsageError(
                    f"{model} builds {name} shaped {list(shape)}: this network has "
                    f"{list(tensor.shape)}"
                )
    output = previous.output if previous is not None else None
    output = kept.output if kept is not None else output
    set_source(module, NetworkSource(model, values, merged, output))
    return model
