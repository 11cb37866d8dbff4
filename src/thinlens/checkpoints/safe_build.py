"""Construction of networks from untrusted configs, bounded by the size of the checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn

from thinlens.checkpoints.blueprint import Blueprint, blueprint
from thinlens.checkpoints.config_file import DTYPES, CheckpointConfig, TensorEntry
from thinlens.checkpoints.tensors import unique_tensors
from thinlens.errors import UsageError, quoted
from thinlens.models import image_channels
from thinlens.models.output import keep_output
from thinlens.models.source import set_source, source_of
from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.recomputed import merge_recomputed
from thinlens.sparsity.resize_parameters import resize_parameters

LARGEST_REDUCTION = 256
"""Weights of the config's network per weight of the file, at most: pruning 64 channels to four
keeps one weight in 256. The whole network is built before it is resized."""

PROBE_SIDE = 64
"""Side in pixels of an image on which every network of `MODELS` runs."""

REGISTRATIONS_PER_TENSOR = 4
"""Parameter registrations per tensor of the file, at most: a tensor that layers share is registered
more than once; more registrations are an attempt to exhaust memory."""

MERGED_REGISTRATIONS = 16
"""The same where weights were merged: the network is built with all of its branches."""


def build_meta(manifest: CheckpointConfig) -> nn.Module:
    """Build the network where weights take no memory, and check its tensors.

    Raises `UsageError` unless the manifest lists exactly its tensors, with their shapes and types.
    """
    plan = blueprint(manifest)
    per_tensor = MERGED_REGISTRATIONS if manifest.merged else REGISTRATIONS_PER_TENSOR
    with plan.shapes_context(per_tensor * (len(manifest.tensors) + len(manifest.built) + 1)):
        module = plan.build_shapes()
    if manifest.merged:
        _check_reduction(unique_tensors(module), manifest)
        module = _merged(plan)
    tensors = unique_tensors(module)
    listed = {entry.name: entry for entry in manifest.tensors}
    for kind, names in (
        ("missing", tensors.keys() - listed.keys() - manifest.built.keys()),
        ("unexpected", (listed.keys() | manifest.built.keys()) - tensors.keys()),
    ):
        if names:
            raise UsageError(
                f"its tensors are not those of {manifest.model} ({kind}: "
                f"{', '.join(quoted(name) for name in sorted(names)[:3])})"
            )
    if manifest.narrowed:
        _resize_meta(module, tensors, manifest, foreign=plan.foreign)
        tensors = unique_tensors(module)
    if manifest.built:
        _check_reduction(tensors, manifest)
    for name, tensor in tensors.items():
        if name in listed:
            _check_entry(listed[name], tensor)
        elif isinstance(tensor, nn.Parameter):
            raise UsageError(f"{name} is a weight, which the file lacks")
    return module


def build_from_config(manifest: CheckpointConfig) -> nn.Module:
    """Build the network with memory for its weights; the global random state is not changed."""
    plan = blueprint(manifest)
    with torch.random.fork_rng(devices=[]):
        module = _merged(plan) if manifest.merged else plan.build()
    if manifest.narrowed:
        shapes = {entry.name: torch.empty(entry.shape) for entry in manifest.tensors}
        tensors = unique_tensors(module)
        resized = {name: empty.to(tensors[name].dtype) for name, empty in shapes.items()}
        resize_parameters(module, resized)
    source = source_of(module)
    if source is not None:
        changed = replace(source, merged=manifest.merged, output=manifest.output)
        set_source(module, changed)
    if manifest.output is not None:
        module = keep_output(module, manifest.output)
    return module


def is_resized(manifest: CheckpointConfig) -> bool:
    """Return whether tensors are smaller than the network's config builds them."""
    plan = blueprint(manifest)
    if manifest.merged:
        tensors = unique_tensors(_merged(plan))
    else:
        with plan.shapes_context(MERGED_REGISTRATIONS * (len(manifest.tensors) + 1)):
            tensors = unique_tensors(plan.build_shapes())
    return any(
        entry.name in tensors and list(tensors[entry.name].shape) != entry.shape
        for entry in manifest.tensors
    )


def _merged(plan: Blueprint) -> nn.Module:
    """Build a network whose weights are computed again in every forward pass, and merge them."""
    with torch.random.fork_rng(devices=[]):
        module = plan.build().eval()
        example = (1, image_channels(module), PROBE_SIDE, PROBE_SIDE)
        merged = merge_recomputed(module, example)
    source = source_of(module)
    if source is not None:
        set_source(merged, source)
    return merged


def _check_reduction(tensors: Mapping[str, Tensor], manifest: CheckpointConfig) -> None:
    whole = sum(tensor.numel() for tensor in tensors.values())
    remaining = sum(prod(entry.shape) for entry in manifest.tensors)
    if whole > LARGEST_REDUCTION * remaining:
        raise UsageError(f"its config describes a network over {LARGEST_REDUCTION} times as large")


def _resize_meta(
    module: nn.Module, tensors: Mapping[str, Tensor], manifest: CheckpointConfig, *, foreign: bool
) -> None:
    """Resize a network without memory to the listed shapes, if pruning can produce them.

    Those of `MODELS` then run, because only a run checks that their layers fit each other.
    """
    listed = {entry.name: entry for entry in manifest.tensors}
    for name, tensor in tensors.items():
        shape = listed[name].shape
        pairs = list(zip(shape, tensor.shape, strict=False))
        if len(shape) != tensor.ndim or any(not 0 < new <= old for new, old in pairs):
            raise UsageError(
                f"{name} is shaped {quoted(shape)}: wanted at most {list(tensor.shape)}"
            )
    _check_reduction(tensors, manifest)
    resize_parameters(module, {n: t.new_empty(listed[n].shape) for n, t in tensors.items()})
    if foreign:
        return  # their constants have memory, so they cannot run without
    try:
        dry_run(module, (1, image_channels(module), PROBE_SIDE, PROBE_SIDE))
    except UsageError as error:
        raise UsageError(
            f"its tensors are smaller than those of its config, and so {error}"
        ) from error


def _check_entry(entry: TensorEntry, tensor: Tensor) -> None:
    if tuple(entry.shape) != tuple(tensor.shape) or tensor.numel() == 0:
        raise UsageError(
            f"{entry.name} is shaped {quoted(entry.shape)}: the network has {list(tensor.shape)}"
        )
    dtype = DTYPES[entry.dtype]
    if dtype != tensor.dtype and not (dtype.is_floating_point and tensor.is_floating_point()):
        raise UsageError(f"{entry.name} is {entry.dtype}: the network has {tensor.dtype}")
