"""Progress callbacks, and a terminal progress bar for long commands."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

BAR_DELAY = 2.0
"""Seconds after which a bar appears; shorter work needs none."""

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with (steps done, steps in total, values to show)."""


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """Yield a callback that draws a bar on stderr, if that is a terminal and the work is long."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
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
        if not bar.live.is_started and time.monotonic() - started > BAR_DELAY:
            bar.start()
        shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
        bar.update(task, completed=done, total=total, values=shown)

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()


def no_progress(done: int, total: int, values: Mapping[str, float]) -> None:
    """Show nothing: there is no terminal, or another process uses it."""


class Steps:
    """Counts the steps of work in several stages, for a progress callback.

    >>> steps = Steps(lambda done, total, values: print(f"{done} of {total}"), total=2)
    >>> steps.one()
    1 of 2
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress or no_progress
        self.done, self.total = 0, total

    def one(self, values: Mapping[str, float] = {}) -> None:
        """Report that one more step is done."""
        self.done += 1
        self._progress(self.done, max(self.total, self.done), values)
