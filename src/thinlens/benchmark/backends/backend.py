"""Interface of a backend: prepare a network and an image, return a callable that runs it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from torch import Tensor, nn


@dataclass(frozen=True)
class BackendSettings:
    """Threads and precision that a backend runs with."""

    threads: int
    precision: str
    """A name of `BENCH_PRECISIONS`."""


PreparedRun = Callable[[], Tensor]
"""Runs the prepared network on the prepared image: float32 `[1, C, H, W]`."""

PrepareBackend = Callable[[nn.Module, Tensor, BackendSettings], PreparedRun]
"""Return the timed callable for a module in evaluation mode and an image `[1, C, H, W]`. Raises
`UnavailableError` where the backend is not installed or has no such precision."""


class UnavailableError(Exception):
    """A backend cannot run; the message is the reason, in one sentence."""


def require_packages(*packages: str) -> None:
    """Raise `UnavailableError` unless all packages are installed."""
    absent = [name for name in packages if find_spec(name) is None]
    if absent:
        raise UnavailableError(f"not installed: pip install {' '.join(absent)}")


@contextmanager
def no_warnings() -> Iterator[None]:
    """Ignore an exporter's warnings: a wrong result would show in the benchmark's errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
