"""What torchrun says of this process and the others, without importing torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK"),
    *("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "TORCHELASTIC_RUN_ID"),
)
"""By which torch and Lightning know that there are others."""


def is_main_process() -> bool:
    """Return whether this is the process of torchrun that writes and prints, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    """Return the number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return the number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def as_one_process() -> Iterator[None]:
    """Hide the other processes inside the context: what trains there trains as without torchrun.

    >>> with as_one_process():
    ...     process_count()
    1
    """
    hidden = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ |= hidden
