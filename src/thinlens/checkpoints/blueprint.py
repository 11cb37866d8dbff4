"""Blueprints of the networks that checkpoints hold: how each kind is built from its config."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

import torch
from torch import nn

from thinlens.checkpoints import spandrel_networks
from thinlens.checkpoints.bounded_build import at_most, bounded_build
from thinlens.checkpoints.config_file import CheckpointConfig
from thinlens.checkpoints.factories import call_factory, find_factory, is_factory_name
from thinlens.dynamic.registry import BUILDABLE
from thinlens.errors import UsageError, quoted
from thinlens.models import MODELS
from thinlens.models.source import NetworkSource, set_source

LARGEST_OPTION = 65_536
"""The largest whole number in a network's config: no width or depth is near it."""

DEEPEST = 8
"""Lists and objects within each other in the arguments of a network of another package."""

MOST_VALUES = 10_000
"""Numbers and texts in such arguments."""

WRAPPER = "network."
"""What the names of a network begin with that is wrapped for calls on images."""


@dataclass(frozen=True)
class Blueprint:
    """How a network is built."""

    build: Callable[[], nn.Module]
    """With memory for its weights."""
    build_shapes: Callable[[], nn.Module]
    """For its names and shapes; it need not run."""
    shapes_context: Callable[[int], AbstractContextManager[None]]
    """In which `build_shapes` takes no memory and registers at most so many parameters."""
    foreign: bool
    """Whether it is a network of another package."""


def blueprint(manifest: CheckpointConfig) -> Blueprint:
    """Return how the network of a checkpoint is built; an unknown or hostile one is refused."""
    name = manifest.model
    if name in BUILDABLE:
        config = network_config(manifest)
        return Blueprint(
            lambda: _built(name, config), lambda: _built(name, config), _on_meta, foreign=False
        )
    if name.startswith(spandrel_networks.PREFIX):
        return _spandrel_blueprint(manifest)
    if is_factory_name(name):
        return _factory_blueprint(manifest)
    choices = ", ".join(MODELS)
    raise UsageError(f"unknown network {quoted(name)}: wanted one of {choices}")


def is_foreign(name: str) -> bool:
    """Return whether a checkpoint's name is that of an architecture or a factory of others."""
    return name.startswith(spandrel_networks.PREFIX) or is_factory_name(name)


def _spandrel_blueprint(manifest: CheckpointConfig) -> Blueprint:
    name = manifest.model.removeprefix(spandrel_networks.PREFIX)
    parameters = _check_arguments(manifest.config)
    as_called = all(entry.name.startswith(WRAPPER) for entry in manifest.tensors)
    if not as_called and any(entry.name.startswith(WRAPPER) for entry in manifest.tensors):
        as_called = True  # the comparison of the names says what is wrong
    return Blueprint(
        lambda: spandrel_networks.build_published(name, parameters, as_called=as_called),
        lambda: spandrel_networks.build_shapes(name, parameters, as_called=as_called),
        bounded_build,
        foreign=True,
    )


def _factory_blueprint(manifest: CheckpointConfig) -> Blueprint:
    arguments = _check_arguments(manifest.config)
    factory = find_factory(manifest.model)

    def build() -> nn.Module:
        module = call_factory(manifest.model, factory, arguments)
        set_source(module, NetworkSource(manifest.model, dict(arguments)))
        return module

    return Blueprint(build, build, bounded_build, foreign=True)


def _check_arguments(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse arguments that are not plain, or too large for any network."""
    remaining = MOST_VALUES

    def check(value: Any, key: str, depth: int) -> None:
        nonlocal remaining
        remaining -= 1
        if depth > DEEPEST or remaining < 0:
            raise UsageError(f"option {quoted(key)} holds too much")
        if isinstance(value, list | tuple):
            for item in value:
                check(item, key, depth + 1)
        elif isinstance(value, dict):
            for name, item in value.items():
                check(item, f"{key}.{name}", depth + 1)
        elif isinstance(value, float) and not isfinite(value):
            raise UsageError(f"option {quoted(key)} is {value}: wanted a finite number")
        elif isinstance(value, int) and not -LARGEST_OPTION <= value <= LARGEST_OPTION:
            raise UsageError(
                f"option {quoted(key)} is {quoted(value)}: wanted at most {LARGEST_OPTION}"
            )

    for key, value in arguments.items():
        check(value, key, 0)
    return arguments


def check_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as JSON gives them back; what JSON does not hold is a `UsageError`.

    >>> check_json({"width": 64, "kernels": (3, 5)})
    {'width': 64, 'kernels': [3, 5]}
    """
    try:
        content: dict[str, Any] = json.loads(json.dumps(dict(arguments), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"arguments={arguments!r} cannot be stored as JSON: {error}") from error
    return content


def network_config(manifest: CheckpointConfig) -> Any:
    """Return the config of a network of `MODELS`; an unknown option or a wrong type is refused."""
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


@contextmanager
def _on_meta(registrations: int) -> Iterator[None]:
    """Build on the meta device, where weights take no memory."""
    with torch.device("meta"), at_most(registrations):
        yield
