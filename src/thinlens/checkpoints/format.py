"""Checkpoint folders: atomic saving and safe loading of a dense or pruned network.

The folder holds `config.json` and `model.safetensors`. A save writes the tensors to
`next.safetensors`, then config.json with their SHA-256, which is the moment the checkpoint
changes, then renames the tensors to their final name. A process killed in between keeps the
previous checkpoint or the new one whole: tensors belong to the config.json that holds their
SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from thinlens.checkpoints.blueprint import is_foreign
from thinlens.checkpoints.built_buffers import built_buffers, check_built
from thinlens.checkpoints.config_file import CheckpointConfig, read_config
from thinlens.checkpoints.factories import allowing, is_factory_name
from thinlens.checkpoints.safe_build import build_from_config, build_meta, is_resized
from thinlens.checkpoints.tensors import (
    WeightStructures,
    pack_network,
    unique_tensors,
    unpack_network,
)
from thinlens.dynamic.model import model_of
from thinlens.dynamic.registry import BUILDABLE
from thinlens.engine.version import package_version
from thinlens.errors import RunError, UsageError, quoted
from thinlens.file_locks import exclusive_folder
from thinlens.files import atomic_write, file_hash, read_unchanged
from thinlens.models import MODELS
from thinlens.models.finite_weights import check_finite, check_finite_network
from thinlens.models.source import source_of
from thinlens.sparsity.display import describe_patterns, patterns_html
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pattern, Patterns, SharedRanks
from thinlens.temporary_files import sweep_leftovers

CONFIG_FILE = "config.json"
TENSORS_FILE = "model.safetensors"
NEXT_FILE = "next.safetensors"

SAVE_SECONDS = 20.0
"""For which a save waits for another process that writes to the same folder."""

LARGEST_TENSORS_FILE = 4 * 2**30
"""Largest tensors file that is read, in bytes: a billion weights."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a checkpoint folder."""

    module: nn.Module
    """Plain, in evaluation mode, with zeros in its pruned weights."""
    patterns: dict[str, Pattern]
    """The masks by module name, bit for bit as they were saved."""
    ranks: dict[str, SharedRanks]
    """Weights that branches share, by module name."""
    model: str
    """The key of its network in `MODELS`."""
    task: dict[str, Any]
    """What the network is for: a key of `TASKS` as `name`, and its options."""
    provenance: dict[str, Any]
    """Method, budget and record of the run that produced the weights."""
    bytes: int
    """Size of the packed file."""
    resized: bool = False
    """Whether channels were pruned: layers are narrower than the module's config builds them."""

    def __repr__(self) -> str:
        return f"Checkpoint({self.model}: {self._sentence()})"

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        return patterns_html(self.model, self._sentence(), self.patterns)

    def _sentence(self) -> str:
        scale = self.task.get("scale", 1)
        task = f"{self.task.get('name', 'no task')}{f' x{scale}' if scale != 1 else ''}"
        return f"{task}, {describe_patterns(self.module, self.patterns)}, {self.bytes:,} bytes"


def save(  # noqa: PLR0913 - keyword-only, each has one meaning
    folder: Path,
    module: nn.Module,
    *,
    model: str,
    task: Mapping[str, Any],
    patterns: WeightStructures | None = None,
    provenance: Mapping[str, Any] | None = None,
    store: str | None = None,
) -> int:
    """Write `module`, a network of `MODELS[model]` or one with a source of the name `model`.

    Returns the packed file's bytes. `store="float16"` halves them. The folder changes whole or not
    at all. Every pruned entry must be 0. A full disk is a `RunError`, as is a folder that another
    process writes to; a network that could not be loaded again is a `UsageError`.
    """
    patterns = patterns or {}
    check_finite_network(module)
    _check_zeros(module, patterns)
    tensors, entries = pack_network(module, patterns, half=store is not None)
    manifest = CheckpointConfig(
        model=model,
        **_origin(module, model),
        stored=store,
        task=dict(task),
        provenance=dict(provenance or {}),
        versions={"thinlens": package_version(), "torch": torch.__version__},
        sha256="",
        tensors=entries,
    )
    with allowing((model.partition(":")[0],) if is_factory_name(model) else ()):
        if is_resized(manifest):
            manifest = replace(manifest, narrowed=True)
        elif is_foreign(model):
            built = built_buffers(module, manifest)
            tensors = {name: x for name, x in tensors.items() if name not in built}
            kept = [entry for entry in entries if entry.name not in built]
            manifest = replace(manifest, built=built, tensors=kept)
        build_meta(manifest)
    packed_file = safetensors.torch.save(tensors)
    manifest = replace(manifest, sha256=hashlib.sha256(packed_file).hexdigest())
    text = manifest.dump()
    with exclusive_folder(folder, SAVE_SECONDS):
        sweep_leftovers(folder)
        _finish_save(folder)
        with atomic_write(folder / NEXT_FILE) as file:
            file.write(packed_file)
        with atomic_write(folder / CONFIG_FILE) as file:
            file.write(text)
        _finish_save(folder)
    return len(packed_file)


def load(folder: Path) -> Checkpoint:
    """Read a folder; one that is damaged, hostile or of another network is a `UsageError`.

    No code of the folder runs, and memory is bounded by the size of its files. A factory of another
    package is imported only where `factories.allowing` allows it. While another process saves, it
    is the checkpoint before that or after it.
    """
    files = [folder / name for name in (CONFIG_FILE, TENSORS_FILE, NEXT_FILE)]
    return read_unchanged(files, lambda: _load(folder))


def _load(folder: Path) -> Checkpoint:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UsageError(f"{folder} is not a checkpoint: it has no {CONFIG_FILE}")
    try:
        manifest = read_config(path)
        network = build_meta(manifest)
        path = folder / TENSORS_FILE
        content = _read_tensors(folder, manifest.sha256)
        weights, structures = unpack_network(_parse(content), manifest.tensors, network)
    except (UsageError, OSError) as error:
        raise UsageError(f"{path} cannot be used: {error}") from error
    module = build_from_config(manifest)
    parts = unique_tensors(module)
    try:
        check_built(parts, manifest)
        check_finite({name: weights[name] for name in parts.keys() & weights}, "its tensors file")
    except UsageError as error:
        raise UsageError(f"{folder} cannot be used: {error}") from error
    for name in parts.keys() & weights:
        tensor = parts[name]
        # A copy has torch's alignment; the parser's tensors have none.
        stored = weights[name].clone()
        tensor.data = stored if manifest.stored is None else stored.to(tensor.dtype)
    ranks = {name: s for name, s in structures.items() if isinstance(s, SharedRanks)}
    model_of(module).load_rank_structures(ranks)
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


def _origin(module: nn.Module, model: str) -> dict[str, Any]:
    """Return what config.json holds of how a network is built."""
    if model in BUILDABLE:
        config = getattr(module, "config", None)
        if not is_dataclass(config) or isinstance(config, type):
            raise UsageError(f"{type(module).__name__} has no config: it is no network of thinlens")
        return {"config": asdict(config)}
    if not is_foreign(model):
        raise UsageError(f"unknown network {quoted(model)}: wanted one of {', '.join(MODELS)}")
    source = source_of(module)
    if source is None or source.name != model:
        raise UsageError(
            f"{type(module).__name__} is not known as {model}: wanted a network of thinlens, of "
            "spandrel, or the name of its factory"
        )
    return {
        "config": dict(source.parameters),
        "merged": source.merged,
        "output": source.output,
    }


def _check_zeros(module: nn.Module, structures: WeightStructures) -> None:
    for name, structure in structures.items():
        weight = prunable_layer(module, name).weight
        if isinstance(structure, Pattern):
            structure.check(prunable_layer(module, name))
            if weight.detach()[~structure.mask.to(weight.device)].any():
                raise UsageError(f"{name} has weights where its pattern has none: strip it first")


def _finish_save(folder: Path) -> None:
    """Finish or discard an interrupted save, so that only the two final names remain."""
    new, old = folder / NEXT_FILE, folder / TENSORS_FILE
    if not new.is_file():
        return
    try:
        if file_hash(new) == _current(folder):
            if old.exists():
                new.chmod(old.stat().st_mode)
            new.replace(old)
        else:
            new.unlink()
    except OSError as error:
        raise RunError(f"cannot write {old}: {error.strerror}") from error


def _current(folder: Path) -> str | None:
    """Return the SHA-256 in config.json, or None where there is no usable one."""
    try:
        return read_config(folder / CONFIG_FILE).sha256
    except (UsageError, FileNotFoundError):
        return None


def _read_tensors(folder: Path, sha256: str) -> bytes:
    """Return the bytes of the tensors file whose SHA-256 is in config.json."""
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
    except Exception as error:  # the parser raises many types
        raise UsageError(f"it is not a safetensors file ({error})") from error
