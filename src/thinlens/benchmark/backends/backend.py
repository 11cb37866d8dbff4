"""What is asked of another engine, so that it can be timed beside ours?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from torch import Tensor, nn


@dataclass(frozen=True)
class Setting:
    """How a network is to be run."""

    threads: int
    precision: str
    """fp32, bf16 or int8."""


PreparedRun = Callable[[], Tensor]
"""Runs the prepared network on the prepared image: float32 `[1, C, H, W]`."""

Prepare = Callable[[nn.Module, Tensor, Setting], PreparedRun]
"""Given a module in evaluation mode and an image `[1, C, H, W]`, gives what is timed. Raises
`UnavailableError` where the engine is not installed or has no such precision."""


class UnavailableError(Exception):
    """Why an engine does not take part, in one sentence."""


def need(*packages: str) -> None:
    """Raise `UnavailableError` unless all packages are installed."""
    absent = [name for name in packages if find_spec(name) is None]
    if absent:
        raise UnavailableError(f"not installed: pip install {' '.join(absent)}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep an exporter's warnings to itself: what they fear, the error column would show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
