"""How does a checkpoint folder hold a thin network, whole at every moment?

The folder holds `config.json` and `model.safetensors`. A save writes the tensors to
`next.safetensors`, then config.json with their SHA-256, which is the moment the checkpoint
changes, then renames the tensors to their place. Killed in between, it leaves the previous
checkpoint or the new one: tensors belong to the config.json that names their SHA-256.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from thinlens.checkpoints.config_file import CheckpointConfig, read_config
from thinlens.checkpoints.safe_build import build_from_config, is_resized, build_meta
from thinlens.checkpoints.tensors import WeightStructures, unpack_network, pack_network, unique_tensors
from thinlens.dynamic.routed import Routed
from thinlens.errors import RunError, UsageError
from thinlens.files import atomic_write, sweep_leftovers
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pattern, Patterns, SharedRanks

CONFIG_FILE = "config.json"
TENSORS_FILE = "model.safetensors"
NEXT_FILE = "next.safetensors"

LARGEST_TENSORS_FILE = 4 * 2**30
"""Bytes of the tensors file that are read at most: a billion weights."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a folder held."""

    module: nn.Module
    """Plain, in evaluation mode, with its zeros in place."""
    patterns: dict[str, Pattern]
    """The masks by module name, bit for bit as they were saved."""
    ranks: dict[str, SharedRanks]
    """Weights that branches share, by module name."""
    model: str
    """The key of its network in `MODELS`."""
    task: dict[str, Any]
    provenance: dict[str, Any]
    bytes: int
    """The size of the packed file."""
    narrowed: bool = False
    """Whether channels were removed: layers are narrower than the module's config says."""


def save(
    folder: Path,
    module: nn.Module,
    *,
    model: str,
    task: Mapping[str, Any],
    patterns: WeightStructures | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> int:
    """Write `module`, a plain network of `MODELS[model]`, and return the packed file's bytes.

    The folder changes whole or not at all. Every entry that its pattern calls dead must be 0.
    A full disk is a `RunError`; a network that could not be loaded again is a `UsageError`.
    """
    config = getattr(module, "config", None)
    if not is_dataclass(config) or isinstance(config, type):
        raise UsageError(f"{type(module).__name__} has no config: it is no network of thinlens")
    patterns = patterns or {}
    _check_dead(module, patterns)
    tensors, entries = pack_network(module, patterns)
    packed_file = safetensors.torch.save(tensors)
    manifest = CheckpointConfig(
        model=model,
        config=asdict(config),
        task=dict(task),
        provenance=dict(provenance or {}),
        versions={"thinlens": _version(), "torch": torch.__version__},
        sha256=hashlib.sha256(packed_file).hexdigest(),
        tensors=entries,
    )
    if is_resized(manifest):
        manifest = replace(manifest, narrowed=True)
    build_meta(manifest)
    text = manifest.dump()
    sweep_leftovers(folder)
    _settle(folder)
    with atomic_write(folder / NEXT_FILE) as file:
        file.write(packed_file)
    with atomic_write(folder / CONFIG_FILE) as file:
        file.write(text)
    _settle(folder)
    return len(packed_file)


def load(folder: Path) -> Checkpoint:
    """Read a folder; whatever is damaged, hostile or of another network is a `UsageError`.

    No code of the folder runs, and it cannot ask for more memory than its size justifies.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UsageError(f"{folder} is not a checkpoint: it has no {CONFIG_FILE}")
    try:
        manifest = read_config(path)
        drawn = build_meta(manifest)
        path = folder / TENSORS_FILE
        content = _read_tensors(folder, manifest.sha256)
        weights, structures = unpack_network(_parse(content), manifest.tensors, drawn)
    except (UsageError, OSError) as error:
        raise UsageError(f"{path} cannot be used: {error}") from error
    module = build_from_config(manifest)
    for name, tensor in unique_tensors(module).items():
        # A copy is aligned as torch aligns its own; the parser's tensors lie anywhere.
        tensor.data = weights[name].clone()
    ranks = {name: s for name, s in structures.items() if isinstance(s, SharedRanks)}
    if isinstance(module, Routed):
        module.load_rank_structures(ranks)
    return Checkpoint(
        module.eval(),
        {name: s for name, s in structures.items() if isinstance(s, Pattern)},
        ranks,
        manifest.model,
        manifest.task,
        manifest.provenance,
        len(content),
        manifest.narrowed,
    )


def packed_bytes(module: nn.Module, patterns: Patterns) -> int:
    """Return the size of the packed file that `module` with these masks would have."""
    return len(safetensors.torch.save(pack_network(module, patterns)[0]))


def _check_dead(module: nn.Module, structures: WeightStructures) -> None:
    for name, structure in structures.items():
        weight = prunable_layer(module, name).weight
        if isinstance(structure, Pattern):
            structure.check(prunable_layer(module, name))
            if weight.detach()[~structure.mask.to(weight.device)].any():
                raise UsageError(f"{name} has weights where its pattern has none: strip it first")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settle(folder: Path) -> None:
    """Finish or drop what a save has begun, so that no name but the two final ones is left."""
    new, old = folder / NEXT_FILE, folder / TENSORS_FILE
    if not new.is_file():
        return
    try:
        if _digest(new) == _current(folder):
            if old.exists():
                new.chmod(old.stat().st_mode)
            new.replace(old)
        else:
            new.unlink()
    except OSError as error:
        raise RunError(f"cannot write {old}: {error.strerror}") from error


def _current(folder: Path) -> str | None:
    """Return the SHA-256 that config.json names, or None where there is no usable one."""
    try:
        return read_config(folder / CONFIG_FILE).sha256
    except (UsageError, FileNotFoundError):
        return None


def _read_tensors(folder: Path, sha256: str) -> bytes:
    """Return the bytes of the tensors file that config.json names by its SHA-256."""
    for path in (folder / TENSORS_FILE, folder / NEXT_FILE):
        if path.is_file():
            if path.stat().st_size > LARGEST_TENSORS_FILE:
                raise UsageError(f"it is larger than {LARGEST_TENSORS_FILE} bytes")
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
    if not (folder / TENSORS_FILE).is_file():
        raise UsageError("there is no such file")
    raise UsageError(f"it is damaged, or not the one that {CONFIG_FILE} belongs to (SHA-256)")


def _parse(content: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # the parser's own kinds are many; none of them is ours
        raise UsageError(f"it is not a safetensors file ({error})") from error


def _version() -> str:
    try:
        return importlib.metadata.version("thinlens")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"  # run from a source tree that was never installed
