"""Factories of networks in other packages: imported only where the caller allows it.

A checkpoint may name a function, `package.module:function`, that builds its network. Its package
is imported if the caller allows it (`allow=("package",)`, `--allow package`), or if the package
registers the function through the entry point group `thinlens.networks`. Nothing else that a
checkpoint names is ever imported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torch import nn

from thinlens.checkpoints.spandrel_networks import PREFIX
from thinlens.errors import UsageError

ENTRY_POINTS = "thinlens.networks"
"""The group of entry points by which packages register factories."""

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
"""The name of a factory: the module, a colon and the function."""

_ALLOWED: ContextVar[tuple[str, ...]] = ContextVar("allowed", default=())


@contextmanager
def allowing(packages: Sequence[str]) -> Iterator[None]:
    """Let checkpoints name factories of these packages while the context is open.

    Modules in the current folder can be among them.
    """
    token, folder = _ALLOWED.set((*_ALLOWED.get(), *packages)), str(Path.cwd())
    extends = bool(packages) and folder not in sys.path
    if extends:
        sys.path.append(folder)
    try:
        yield
    finally:
        _ALLOWED.reset(token)
        if extends and folder in sys.path:
            sys.path.remove(folder)


def is_factory_name(name: str) -> bool:
    """Return whether a network's name is that of a factory.

    >>> is_factory_name("mypackage.nets:make_imdn"), is_factory_name("spandrel:ESRGAN")
    (True, False)
    """
    return NAME.fullmatch(name) is not None and not name.startswith(PREFIX)


def is_allowed(name: str) -> bool:
    """Return whether the factory called `name` may be imported."""
    module = name.partition(":")[0]
    allowed = (module == package or module.startswith(f"{package}.") for package in _ALLOWED.get())
    return any(allowed) or name in _registered()


def find_factory(name: str) -> Callable[..., nn.Module]:
    """Import the factory called `name`; a `UsageError` if it is not allowed or not there."""
    package = name.partition(":")[0].partition(".")[0]
    if not is_allowed(name):
        raise UsageError(
            f"its network is built by {name}, whose package is not allowed: wanted "
            f'allow=("{package}",) or --allow {package}, if you trust it'
        )
    return import_factory(name)


def import_factory(name: str) -> Callable[..., nn.Module]:
    """Import a factory that the caller names himself."""
    module, _, function = name.partition(":")
    if module == "__main__":
        raise UsageError(
            f"{name} is in the script that runs, where nothing else finds it: wanted a function of "
            "a module that can be imported"
        )
    try:
        factory = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise UsageError(f"{name} cannot be imported: {error}") from error
    except AttributeError:
        raise UsageError(f"{module} has no function {function}") from None
    if not callable(factory):
        raise UsageError(f"{name} is no function: wanted one that returns an nn.Module")
    return factory  # type: ignore[no-any-return]


def call_factory(name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network; a factory that fails or returns something else is a `UsageError`."""
    try:
        module = factory(**arguments)
    except UsageError:
        raise
    except Exception as error:  # a factory may raise anything
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"{name} fails with these arguments: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{name} returned a {type(module).__name__}: wanted an nn.Module")
    return module


def _registered() -> frozenset[str]:
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return frozenset(point.value.replace(" ", "") for point in points)
