"""Record of what a network from outside the registry is built by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

SOURCE_ATTRIBUTE = "thinlens_source"
"""The attribute of a module that holds its `NetworkSource`; copies of the module keep it."""


@dataclass(frozen=True)
class NetworkSource:
    """Name and parameters of the architecture or the factory that builds a network.

    >>> NetworkSource("mypackage.nets:make_imdn", {"width": 64}).name
    'mypackage.nets:make_imdn'
    """

    name: str
    """`spandrel:<architecture>`, or `package.module:factory`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the architecture or the factory: what JSON can hold."""
    merged: bool = False
    """Whether weights that every forward pass computed again were merged into plain ones."""
    output: int | str | None = None
    """Which of several outputs is the image: an index or a key; None if there is only one."""


def source_of(module: object) -> NetworkSource | None:
    """Return the source that a module carries; None if it carries none.

    >>> source_of(nn.Conv2d(3, 3, 3)) is None
    True
    """
    source = getattr(module, SOURCE_ATTRIBUTE, None)
    return source if isinstance(source, NetworkSource) else None


def set_source(module: nn.Module, source: NetworkSource) -> None:
    """Make `module` carry `source`.

    >>> module = nn.Conv2d(3, 3, 3)
    >>> set_source(module, NetworkSource("mypackage.nets:make"))
    >>> source_of(module).name
    'mypackage.nets:make'
    """
    setattr(module, SOURCE_ATTRIBUTE, source)
