"""Import of pretrained weights of other training programs into networks of `MODELS`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from thinlens.checkpoints.config_file import quoted
from thinlens.errors import UsageError
from thinlens.models import model_entry
from thinlens.models.entry import StateDict

STATE_DICT_KEYS = ("params_ema", "params", "state_dict")
"""Keys under which training programs store a state dict, in order of preference."""

PREFIX = "module."
"""Prefix that `DataParallel` adds to every name."""

MOST_LISTED = 3
"""Tensors that an error lists, at most."""


def import_weights(file: Path, model: str, **options: Any) -> nn.Module:
    """Build the network `model` with config `options` and fill it from a .pth, .pt or .safetensors.

    No code of the file runs. Raises `UsageError` unless it holds exactly the network's tensors,
    after unwrapping, renaming and dropping the prefix of `DataParallel`.
    """
    entry = model_entry(model)
    config = entry.make_config(**options)
    content = _state_dict(_read(file), file)
    try:
        state = entry.convert_state(content)
    except (LookupError, RuntimeError) as error:  # renaming may fail on unexpected names
        raise UsageError(f"{file} does not fit {model}: {error}") from error
    with torch.random.fork_rng(devices=[]):
        module = entry.build(config)
    _check(state, module.state_dict(), f"{file} does not fit {model}")
    module.load_state_dict(state)
    return module.eval()


def _read(file: Path) -> object:
    if not file.is_file():
        raise UsageError(f"{file} is no file: wanted weights as .pth, .pt or .safetensors")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load(file.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files use storage classes that torch deprecates
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # readers of untrusted files may raise anything
        raise UsageError(
            f"{file} cannot be read as weights ({type(error).__name__}): "
            "wanted a .safetensors, or a .pth or .pt that holds nothing but tensors"
        ) from error


def _state_dict(content: object, file: Path) -> StateDict:
    """Return the named tensors, without the dictionaries in which training programs wrap them."""
    for wrapper in STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise UsageError(f"{file} holds no state dict")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not _is_plain(tensor):
            raise UsageError(f"{file} holds {quoted(name)}, which is no plain tensor")
    prefixed = all(name.startswith(PREFIX) for name in content)
    return {name.removeprefix(PREFIX) if prefixed else name: t for name, t in content.items()}


def _is_plain(tensor: Tensor) -> bool:
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_complex()
    )


def _check(state: StateDict, expected: StateDict, problem: str) -> None:
    """Raise `UsageError` unless the two have the same names and shapes."""
    misshapen = (
        f"{name} is {list(state[name].shape)}, not {list(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    )
    for kind, names in (
        ("missing", [name for name in expected if name not in state]),
        ("unexpected", [quoted(name) for name in state if name not in expected]),
        ("misshapen", list(misshapen)),
    ):
        if names:
            more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
            raise UsageError(f"{problem}: {kind} {', '.join(names[:MOST_LISTED])}{more}")
