"""How does a whole network become named tensors of a file, and how do they become its weights?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from thinlens.checkpoints.config_file import DTYPES, TensorEntry, quoted
from thinlens.checkpoints.packing import ENCODINGS, PackedWeight, pack, unpack
from thinlens.errors import UsageError
from thinlens.sparsity.layout import PRUNABLE_TYPES, PrunableModule
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pattern, SharedRanks

WeightStructures = Mapping[str, Pattern | SharedRanks]
"""What is known of pruned weights, by the name of their module."""


def unique_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and persistent buffer once, by its first state-dict name."""
    own: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise UsageError(f"{name} of the network is no tensor, so it cannot be stored")
        if id(tensor) not in seen:
            own[name] = tensor
            seen.add(id(tensor))
    return own


def pack_network(module: nn.Module, structures: WeightStructures) -> tuple[dict[str, Tensor], list[TensorEntry]]:
    """Return the tensors of the file by their names there, and how each weight is stored."""
    if any(parametrize.is_parametrized(part) for part in module.modules()):
        raise UsageError("the network still wears parametrizations: strip it before it is saved")
    layers = {}
    for name, structure in structures.items():
        layer = prunable_layer(module, name)
        layers[id(layer.weight)] = layer, structure
    tensors, entries = {}, []
    for name, tensor in unique_tensors(module).items():
        packed = PackedWeight("dense", None, None, {"": tensor.detach().cpu()})
        if id(tensor) in layers:
            packed = pack(tensor, *layers[id(tensor)])
        dtype = str(tensor.dtype).removeprefix("torch.")
        shape = list(tensor.shape)
        entries.append(TensorEntry(name, packed.encoding, packed.n, packed.m, shape, dtype))
        for part, content in packed.parts.items():
            # A copy: the format refuses tensors that share memory, as parts of one buffer do.
            copy = content.clone(memory_format=torch.contiguous_format)
            tensors[tensor_name(name, part)] = copy
    return tensors, entries


def unpack_network(
    parts: dict[str, Tensor], entries: list[TensorEntry], network: nn.Module
) -> tuple[dict[str, Tensor], dict[str, Pattern | SharedRanks]]:
    """Return the weights by state-dict name and their structures by module name.

    `entries` are those of `network`, which may lie on the meta device. A part that is missing,
    not asked for, or does not fit is a `UsageError`.
    """
    wanted = {tensor_name(entry.name, part) for entry in entries for part in ENCODINGS[entry.encoding]}
    for kind, names in (("lacks", wanted - parts.keys()), ("also has", parts.keys() - wanted)):
        if names:
            raise UsageError(f"it {kind} the tensor {quoted(min(names))}")
    weights: dict[str, Tensor] = {}
    structures: dict[str, Pattern | SharedRanks] = {}
    for entry in entries:
        own = {part: parts[tensor_name(entry.name, part)] for part in ENCODINGS[entry.encoding]}
        try:
            weight, structure = _read(entry, own, network)
        except UsageError as error:
            raise UsageError(f"{entry.name}: {error}") from error
        weights[entry.name] = weight
        if structure is not None:
            structures[_layer_name(entry.name)] = structure
    return weights, structures


def _read(
    entry: TensorEntry, own: dict[str, Tensor], network: nn.Module
) -> tuple[Tensor, Pattern | SharedRanks | None]:
    values = own["" if entry.encoding == "dense" else "values"]
    if values.dtype != DTYPES[entry.dtype]:
        raise UsageError(f"its values are {values.dtype}, not {entry.dtype}")
    if entry.encoding == "dense" and entry.n is None and entry.m is None:
        if list(values.shape) != entry.shape:
            raise UsageError(f"it is shaped {list(values.shape)}, not {entry.shape}")
        return values, None
    layer = _prunable(network, entry.name)
    return unpack(PackedWeight(entry.encoding, entry.n, entry.m, own), layer)


def _prunable(network: nn.Module, name: str) -> PrunableModule:
    if name.endswith(".weight") or name == "weight":
        layer = network.get_submodule(_layer_name(name))
        if isinstance(layer, PRUNABLE_TYPES):
            return layer
    raise UsageError("it is no weight that can be pruned")


def _layer_name(name: str) -> str:
    return name.removesuffix("weight").removesuffix(".")


def tensor_name(tensor: str, part: str) -> str:
    """Name a part in the file; `/` keeps it apart from the names of a state dict."""
    return f"{tensor}/{part}" if part else tensor
