"""Construction of networks from untrusted configs, bounded by the size of the checkpoint file."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from math import isfinite, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from thinlens.checkpoints.config_file import DTYPES, CheckpointConfig, TensorEntry, quoted
from thinlens.checkpoints.tensors import unique_tensors
from thinlens.dynamic.registry import BUILDABLE
from thinlens.errors import UsageError
from thinlens.models import MODELS, image_channels
from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.resize_parameters import resize_parameters

LARGEST_OPTION = 65_536
"""The largest whole number in a network's config: no width or depth is near it."""

LARGEST_REDUCTION = 256
"""Weights of the config's network per weight of the file, at most: pruning 64 channels to four
keeps one weight in 256. The whole network is built before it is resized."""

PROBE_SIDE = 64
"""Side in pixels of an image on which every network of `MODELS` runs."""

REGISTRATIONS_PER_TENSOR = 4
"""Parameter registrations per tensor of the file, at most: a tensor that layers share is registered
more than once; more registrations are an attempt to exhaust memory."""


def build_meta(manifest: CheckpointConfig) -> nn.Module:
    """Build the network on the meta device, where weights take no memory, and check its tensors.

    Raises `UsageError` unless the manifest lists exactly its tensors, with their shapes and types.
    """
    config = network_config(manifest)
    with torch.device("meta"), _at_most(REGISTRATIONS_PER_TENSOR * (len(manifest.tensors) + 1)):
        module = _built(manifest.model, config)
    tensors = unique_tensors(module)
    listed = {entry.name: entry for entry in manifest.tensors}
    for kind, names in (
        ("missing", tensors.keys() - listed),
        ("unexpected", listed.keys() - tensors),
    ):
        if names:
            raise UsageError(
                f"its tensors are not those of {manifest.model} ({kind}: "
                f"{', '.join(quoted(name) for name in sorted(names)[:3])})"
            )
    if manifest.narrowed:
        _resize_meta(module, tensors, listed)
        tensors = unique_tensors(module)
    for name, tensor in tensors.items():
        _check_entry(listed[name], tensor)
    return module


def build_from_config(manifest: CheckpointConfig) -> nn.Module:
    """Build the network with memory for its weights; the global random state is not changed."""
    with torch.random.fork_rng(devices=[]):
        module = _built(manifest.model, network_config(manifest))
    if manifest.narrowed:
        shapes = {entry.name: torch.empty(entry.shape) for entry in manifest.tensors}
        tensors = unique_tensors(module)
        resized = {name: empty.to(tensors[name].dtype) for name, empty in shapes.items()}
        resize_parameters(module, resized)
    return module


def is_resized(manifest: CheckpointConfig) -> bool:
    """Return whether tensors are smaller than the network's config builds them."""
    with torch.device("meta"):
        tensors = unique_tensors(_built(manifest.model, network_config(manifest)))
    return any(
        entry.name in tensors and list(tensors[entry.name].shape) != entry.shape
        for entry in manifest.tensors
    )


def _resize_meta(
    module: nn.Module, tensors: Mapping[str, Tensor], listed: Mapping[str, TensorEntry]
) -> None:
    """Resize a network on the meta device to the listed shapes, if pruning can produce them; then
    run it, because only a run checks that its layers fit each other."""
    whole = sum(tensor.numel() for tensor in tensors.values())
    remaining = sum(prod(listed[name].shape) for name in tensors)
    for name, tensor in tensors.items():
        shape = listed[name].shape
        pairs = list(zip(shape, tensor.shape, strict=False))
        if len(shape) != tensor.ndim or any(not 0 < new <= old for new, old in pairs):
            raise UsageError(
                f"{name} is shaped {quoted(shape)}: wanted at most {list(tensor.shape)}"
            )
    if whole > LARGEST_REDUCTION * remaining:
        raise UsageError(f"its config describes a network over {LARGEST_REDUCTION} times as large")
    resize_parameters(module, {n: t.new_empty(listed[n].shape) for n, t in tensors.items()})
    try:
        dry_run(module, (1, image_channels(module), PROBE_SIDE, PROBE_SIDE))
    except UsageError as error:
        raise UsageError(
            f"its tensors are smaller than those of its config, and so {error}"
        ) from error


def network_config(manifest: CheckpointConfig) -> Any:
    """Return the network's config; an option that is unknown or of the wrong type is refused."""
    if manifest.model not in BUILDABLE:
        choices = ", ".join(MODELS)
        raise UsageError(f"unknown network {quoted(manifest.model)}: wanted one of {choices}")
    entry = BUILDABLE[manifest.model]
    defaults = {field.name: getattr(entry.config, field.name) for field in fields(entry.config)}
    options = {}
    for key, value in manifest.config.items():
        if key not in defaults:
            raise UsageError(f"{manifest.model} has no option {quoted(key)}")
        options[key] = _option(key, value, defaults[key])
    return entry.make_config(**options)


def _option(key: str, value: object, default: object) -> object:
    """Return a JSON value as the type of an option's default."""
    if isinstance(default, tuple) and isinstance(value, list | tuple) and default:
        return tuple(_option(key, item, default[0]) for item in value)
    allowed = (int, float) if type(default) is float else (type(default),)
    if type(value) not in allowed:
        raise UsageError(f"option {key} is {quoted(value)}: wanted one like {default!r}")
    if isinstance(value, int) and not 0 <= value <= LARGEST_OPTION:
        raise UsageError(f"option {key} is {quoted(value)}: wanted 0 to {LARGEST_OPTION}")
    if isinstance(value, float) and not isfinite(value):
        raise UsageError(f"option {key} is {value}: wanted a finite number")
    return value


def _built(name: str, config: Any) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "initializing zero-element tensors is a no-op"
            return BUILDABLE[name].build(config)
    except UsageError:
        raise
    except Exception as error:  # a constructor may raise anything on unusual numbers
        raise UsageError(f"{name} cannot be built from its config: {error}") from error


def _check_entry(entry: TensorEntry, tensor: Tensor) -> None:
    if tuple(entry.shape) != tuple(tensor.shape) or tensor.numel() == 0:
        raise UsageError(
            f"{entry.name} is shaped {quoted(entry.shape)}: the network has {list(tensor.shape)}"
        )
    dtype = DTYPES[entry.dtype]
    if dtype != tensor.dtype and not (dtype.is_floating_point and tensor.is_floating_point()):
        raise UsageError(f"{entry.name} is {entry.dtype}: the network has {tensor.dtype}")


@contextmanager
def _at_most(registrations: int) -> Iterator[None]:
    """Refuse to register more parameters than this while the context is open, in this thread."""
    remaining, builder = registrations, threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal remaining
        remaining -= threading.get_ident() == builder
        if remaining < 0:
            raise UsageError("its config has more tensors than the file holds")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
