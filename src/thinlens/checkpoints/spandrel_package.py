"""spandrel, an optional package of published architectures: its import, without torchvision.

Two of its architectures use torchvision; the others import and run without it. Where torchvision
is not installed, a placeholder stands for it while spandrel is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import nn

from thinlens.errors import UsageError

PLACEHOLDERS = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
"""The modules that spandrel imports from torchvision."""

_LOCK = threading.Lock()


class _Absent:
    """A name of torchvision that was imported without torchvision; any use is a `UsageError`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: object, **options: object) -> object:
        raise UsageError(f"this architecture uses {self._name}: wanted torchvision installed")

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UsageError(f"this architecture uses {self._name}: wanted torchvision installed")


class _Placeholder(types.ModuleType):
    """A module of torchvision while it is not installed."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{self.__name__}.{name}")


@cache
def architectures() -> Mapping[str, Any]:
    """Return spandrel's architectures by id, in the order of detection.

    Those of spandrel_extra_arches are among them where it is installed. A `UsageError` if spandrel
    is not installed.
    """
    if importlib.util.find_spec("spandrel") is None:
        raise UsageError(
            "spandrel is not installed, which knows the published architectures: "
            "wanted pip install 'thinlens[spandrel]'"
        )
    with _LOCK, _torchvision_or_placeholder(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spandrel = importlib.import_module("spandrel")
        registry = spandrel.ArchRegistry()
        registry.add(*spandrel.MAIN_REGISTRY.architectures())
        if importlib.util.find_spec("spandrel_extra_arches") is not None:
            extra = importlib.import_module("spandrel_extra_arches")
            registry.add(*extra.EXTRA_REGISTRY, ignore_duplicates=True)
    supported = registry.architectures("detection")
    return {str(support.architecture.id): support.architecture for support in supported}


def is_installed() -> bool:
    """Return whether spandrel can be imported."""
    return importlib.util.find_spec("spandrel") is not None


def network_classes(architecture: Any) -> dict[str, type[nn.Module]]:
    """Return the network classes of one of spandrel's architectures, by their public names."""
    package = sys.modules[type(architecture).__module__]
    return {
        name: value
        for name, value in vars(package).items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    }


@contextmanager
def _torchvision_or_placeholder() -> Iterator[None]:
    """Put placeholders for torchvision into `sys.modules` where it is not installed."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    for name in PLACEHOLDERS:
        module = _Placeholder(name)
        module.__path__ = []
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in PLACEHOLDERS:
            sys.modules.pop(name, None)
