"""Interface of an export format: write the files of another engine, and run them there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from thinlens.errors import UsageError

ExportRunner = Callable[[Tensor], Tensor]
"""Runs an exported network: maps `[1, C, h, w]` to `[1, C, H, W]`."""


@dataclass(frozen=True)
class ExportInput:
    """The inputs that a network is traced with."""

    first: Tensor
    """`[1, C, h, w]`."""
    second: Tensor | None
    """An image of another size: the file takes images of any size; None: only of the first."""


class Exporter(ABC):
    """Writes one format."""

    SUFFIXES: tuple[str, ...]
    """Of the files that are written; the last is the one that is opened."""
    PACKAGES: tuple[str, ...]
    """What writes them."""
    RUNTIME: str
    """The package that runs them."""

    @abstractmethod
    def write(self, module: nn.Module, example: ExportInput, stem: Path) -> None:
        """Write `stem` with each of `SUFFIXES`.

        Raises `UnsupportedNetworkError` for a network that the format cannot hold.
        """

    @abstractmethod
    def runner(self, stem: Path) -> ExportRunner:
        """Return what runs the files in float32 by the format's own engine."""


class UnsupportedNetworkError(Exception):
    """A converter does not know the network, or not at several sizes; the message is the reason."""


def require(exporter: Exporter) -> None:
    """Raise `UsageError` unless the packages that write a format are installed."""
    absent = missing(exporter.PACKAGES)
    if absent:
        raise UsageError(f"this export needs {', '.join(absent)}: pip install 'thinlens[export]'")


def missing(packages: Sequence[str]) -> list[str]:
    """Return the packages that are not installed.

    >>> missing(["torch", "no_such_package"])
    ['no_such_package']
    """
    return [name for name in packages if find_spec(name) is None]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind.

    >>> first_line(KeyError())
    'KeyError'
    """
    return (str(error) or type(error).__name__).strip().partition("\n")[0]
