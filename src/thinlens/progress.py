"""How does a person see that a long command goes on?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

PATIENCE = 2.0
"""Seconds after which a bar appears; shorter work needs none."""

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called with (done, total, values to show)."""


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """Give a function that draws a bar on stderr, if that is a terminal and the work is long."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task(what, total=None, values="")
    started = time.monotonic()

    def report(done: int, total: int, values: Mapping[str, float]) -> None:
        if not bar.live.is_started and time.monotonic() - started > PATIENCE:
            bar.start()
        shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
        bar.update(task, completed=done, total=total, values=shown)

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()


def silent(done: int, total: int, values: Mapping[str, float]) -> None:
    """Report nothing: there is no terminal, or another process has it."""
