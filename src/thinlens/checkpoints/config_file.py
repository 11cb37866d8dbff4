"""Schema and validation of a checkpoint's config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from thinlens.checkpoints.packing import ENCODINGS
from thinlens.errors import UsageError, quoted

FORMAT_VERSION = 1
"""Version of the folder format. Every released one stays loadable."""

LARGEST_CONFIG_FILE = 2 * 2**20
"""Largest config.json that is read, in bytes: some 15,000 tensors."""

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16"),
        *("int64", "int32", "int16", "int8", "uint8", "bool"),
    )
}
"""Element types of stored tensors, by name."""


STORED_TYPE = "float16"
"""The smaller type in which values can be stored."""


@dataclass(frozen=True)
class TensorEntry:
    """Encoding of one tensor of the network."""

    name: str
    """Its name in the network's state dict."""
    encoding: str
    """How it is packed: dense, bitmask, index or ranks."""
    n: int | None
    """Weights kept of every m; null where the tensor is no pruned weight."""
    m: int | None
    """Consecutive input channels in a group; null like `n`."""
    shape: list[int]
    """As the network has it."""
    dtype: str
    """Its type in the network, such as float32."""

    def __post_init__(self) -> None:
        sizes = type(self.shape) is list and all(type(size) is int for size in self.shape)
        optional = {type(self.n), type(self.m)} <= {int, type(None)}
        if type(self.name) is not str or not sizes or not optional:
            raise UsageError(f"the entry of tensor {quoted(self.name)} is malformed")
        for key, choices in (("encoding", ENCODINGS), ("dtype", DTYPES)):
            value = getattr(self, key)
            if type(value) is not str or value not in choices:
                raise UsageError(
                    f"tensor {quoted(self.name)} has the unknown {key} {quoted(value)}: "
                    f"wanted {', '.join(choices)}"
                )


@dataclass(frozen=True)
class CheckpointConfig:
    """The content of config.json."""

    model: str
    """A key of `MODELS`, `spandrel:<architecture>`, or `package.module:factory`."""
    config: dict[str, Any]
    """The network's own config, the architecture's parameters, or the factory's arguments."""
    task: dict[str, Any]
    """What the network is for: a key of `TASKS` as `name`, and its options."""
    provenance: dict[str, Any]
    """Method, budget and record of the run that produced the weights."""
    versions: dict[str, Any]
    """Of the packages that wrote the folder."""
    sha256: str
    """Of the tensors file that belongs to this config.json."""
    tensors: list[TensorEntry]
    """An entry for each tensor of the state dict, in its order."""
    narrowed: bool = False
    """Whether channels were pruned: tensors are then smaller than `config` builds them, shaped as
    their entries. Written only if true, because older versions cannot read such a network."""
    merged: bool = False
    """Whether weights that every forward pass computed again were merged into plain ones."""
    output: int | str | None = None
    """Which of several outputs is the image: an index or a key."""
    stored: str | None = None
    """The type in which floating-point values are stored, if not their own: `float16`."""
    built: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of buffers that are not stored, because building the network gives them."""

    def __post_init__(self) -> None:
        for name in ("model", "sha256"):
            if type(getattr(self, name)) is not str:
                raise UsageError(f"{name} is not a string")
        for name in ("config", "task", "provenance", "versions"):
            if type(getattr(self, name)) is not dict:
                raise UsageError(f"{name} is not an object")
        for name in ("narrowed", "merged"):
            if type(getattr(self, name)) is not bool:
                raise UsageError(f"{name} is not true or false")
        if type(self.output) not in (int, str, type(None)):
            raise UsageError("output is no number and no name")
        if self.stored not in (None, STORED_TYPE):
            raise UsageError(f"stored is {quoted(self.stored)}: wanted {STORED_TYPE}")
        if type(self.built) is not dict or any(type(x) is not str for x in self.built.values()):
            raise UsageError("built is no object of strings")
        if self.built and (self.narrowed or self.built.keys() & {x.name for x in self.tensors}):
            raise UsageError("built names tensors that are stored, or of other shapes")
        if len({entry.name for entry in self.tensors}) != len(self.tensors):
            raise UsageError("a tensor is listed twice")

    def dump(self) -> bytes:
        """Return the file's bytes: JSON, one line a tensor."""
        head = {"format": FORMAT_VERSION, **{f.name: getattr(self, f.name) for f in fields(self)}}
        del head["tensors"]
        for key, default in _defaults().items():  # older versions know no key that is not needed
            if head[key] == default:
                del head[key]
        lines = [f"    {json.dumps(asdict(entry))}" for entry in self.tensors]
        body = json.dumps(head, indent=2).removesuffix("\n}")
        return (body + ',\n  "tensors": [\n' + ",\n".join(lines) + "\n  ]\n}\n").encode()


def _defaults() -> dict[str, Any]:
    """Return the values of keys that are optional."""
    optional = {f.name: f.default for f in fields(CheckpointConfig) if f.default is not MISSING}
    return {**optional, "built": {}}


def read_config(path: Path) -> CheckpointConfig:
    """Read config.json; any error in it is a `UsageError` without the path."""
    content = _object(path)
    version = content.pop("format", None)
    if version != FORMAT_VERSION or type(version) is not int:
        raise UsageError(
            f"format {quoted(version)} is unknown: this thinlens reads {FORMAT_VERSION}"
        )
    _check_keys(content, CheckpointConfig, "config.json")
    entries = content["tensors"]
    if type(entries) is not list or any(type(entry) is not dict for entry in entries):
        raise UsageError("tensors is not an array of objects")
    for entry in entries:
        _check_keys(entry, TensorEntry, "an entry of tensors")
    return CheckpointConfig(**{**content, "tensors": [TensorEntry(**entry) for entry in entries]})


def _object(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_CONFIG_FILE:
        raise UsageError(f"it is larger than {LARGEST_CONFIG_FILE} bytes")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError("it is not JSON") from error
    if type(content) is not dict:
        raise UsageError("it is not a JSON object")
    return content


def _check_keys(content: Mapping[str, Any], schema: type, where: str) -> None:
    names = {f.name for f in fields(schema)}
    required = {
        f.name for f in fields(schema) if f.default is MISSING and f.default_factory is MISSING
    }
    for kind, keys in (
        ("lacks", required - set(content)),
        ("has the unknown key", set(content) - names),
    ):
        if keys:
            raise UsageError(f"{where} {kind} {quoted(min(keys))}")
