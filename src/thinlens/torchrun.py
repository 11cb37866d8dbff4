"""What torchrun says of this process and the others, without importing torch."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    """Return whether this is the process of torchrun that writes and prints, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    """Return the number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))
