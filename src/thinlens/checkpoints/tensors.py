"""Conversion between a network's weights and the named tensors of a checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from thinlens.checkpoints.config_file import DTYPES, TensorEntry
from thinlens.checkpoints.packing import ENCODINGS, PackedWeight, pack, unpack
from thinlens.errors import UsageError, quoted
from thinlens.sparsity.layout import PRUNABLE_TYPES, PrunableModule
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pattern, SharedRanks

WeightStructures = Mapping[str, Pattern | SharedRanks]
"""Patterns or shared ranks of pruned weights, by the name of their module."""


def unique_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and persistent buffer once, by its first state-dict name."""
    tensors: dict[str, Tensor] = {}
    identities = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise UsageError(f"{name} of the network is no tensor, so it cannot be stored")
        if id(tensor) not in identities:
            tensors[name] = tensor
            identities.add(id(tensor))
    return tensors


def pack_network(
    module: nn.Module, structures: WeightStructures, *, half: bool = False
) -> tuple[dict[str, Tensor], list[TensorEntry]]:
    """Return the file's tensors by name, and the entry of each weight.

    With `half`, floating-point values become float16; one beyond its range is a `UsageError`.
    """
    if any(parametrize.is_parametrized(child) for child in module.modules()):
        raise UsageError("the network still has parametrizations: strip it before it is saved")
    layers = {}
    for name, structure in structures.items():
        layer = prunable_layer(module, name)
        layers[id(layer.weight)] = layer, structure
    tensors, entries = {}, []
    for name, tensor in unique_tensors(module).items():
        stored = half_precision(name, tensor) if half else tensor
        packed = PackedWeight("dense", None, None, {"": stored.detach().cpu()})
        if id(tensor) in layers:
            packed = pack(stored, *layers[id(tensor)])
        dtype = str(stored.dtype).removeprefix("torch.")
        shape = list(tensor.shape)
        entries.append(TensorEntry(name, packed.encoding, packed.n, packed.m, shape, dtype))
        for suffix, content in packed.tensors.items():
            # A copy: the format refuses tensors that share memory, such as views of one buffer.
            copy = content.clone(memory_format=torch.contiguous_format)
            tensors[tensor_name(name, suffix)] = copy
    return tensors, entries


def half_precision(name: str, tensor: Tensor) -> Tensor:
    """Return floating-point values as float16, and others as they are.

    >>> half_precision("scale", torch.tensor([1e5]))
    Traceback (most recent call last):
    thinlens.errors.UsageError: scale has the value 100000, which float16 does not hold (65504)
    """
    if not tensor.is_floating_point():
        return tensor
    values = tensor.detach()
    half = values.half()
    lost = half.isinf() & values.isfinite()
    if lost.any():
        value = values[lost].flatten()[0].item()
        raise UsageError(f"{name} has the value {value:g}, which float16 does not hold (65504)")
    return half


def unpack_network(
    tensors: dict[str, Tensor], entries: list[TensorEntry], network: nn.Module
) -> tuple[dict[str, Tensor], dict[str, Pattern | SharedRanks]]:
    """Return the weights by state-dict name and their structures by module name.

    `entries` are those of `network`, which may be on the meta device. A tensor that is missing,
    unexpected or invalid is a `UsageError`.
    """
    expected = {
        tensor_name(entry.name, suffix) for entry in entries for suffix in ENCODINGS[entry.encoding]
    }
    for kind, names in (
        ("lacks", expected - tensors.keys()),
        ("also has", tensors.keys() - expected),
    ):
        if names:
            raise UsageError(f"it {kind} the tensor {quoted(min(names))}")
    weights: dict[str, Tensor] = {}
    structures: dict[str, Pattern | SharedRanks] = {}
    for entry in entries:
        stored = {s: tensors[tensor_name(entry.name, s)] for s in ENCODINGS[entry.encoding]}
        try:
            weight, structure = _decode(entry, stored, network)
        except UsageError as error:
            raise UsageError(f"{entry.name}: {error}") from error
        weights[entry.name] = weight
        if structure is not None:
            structures[_layer_name(entry.name)] = structure
    return weights, structures


def _decode(
    entry: TensorEntry, stored: dict[str, Tensor], network: nn.Module
) -> tuple[Tensor, Pattern | SharedRanks | None]:
    values = stored["" if entry.encoding == "dense" else "values"]
    if values.dtype != DTYPES[entry.dtype]:
        raise UsageError(f"its values are {values.dtype}, not {entry.dtype}")
    if entry.encoding == "dense" and entry.n is None and entry.m is None:
        if list(values.shape) != entry.shape:
            raise UsageError(f"it is shaped {list(values.shape)}, not {entry.shape}")
        return values, None
    layer = _prunable(network, entry.name)
    return unpack(PackedWeight(entry.encoding, entry.n, entry.m, stored), layer)


def _prunable(network: nn.Module, name: str) -> PrunableModule:
    if name.endswith(".weight") or name == "weight":
        layer = network.get_submodule(_layer_name(name))
        if isinstance(layer, PRUNABLE_TYPES):
            return layer
    raise UsageError("it is no weight that can be pruned")


def _layer_name(name: str) -> str:
    return name.removesuffix("weight").removesuffix(".")


def tensor_name(weight: str, suffix: str) -> str:
    """Return the name of an encoding's tensor in the file; `/` is in no name of a state dict."""
    return f"{weight}/{suffix}" if suffix else weight
