"""How are the cells of a comparison made in several processes at once?"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

from thinlens.errors import RunError
from thinlens.experiments.comparison import DENSE, Cell, Comparison
from thinlens.experiments.runs import CellMaker
from thinlens.progress import no_progress
from thinlens.signals import Interrupted

Outcome = dict[str, Any] | RunError
"""A cell's row, or why it has none."""


def made(
    plan: Comparison, out: Path, planned: Sequence[Cell], jobs: int
) -> Iterator[tuple[Cell, Outcome]]:
    """Make cells in up to `jobs` processes, the dense networks first, and yield each as it is done.

    Raises the `UsageError` of a cell. Then, as after Ctrl-C or SIGTERM, the others save where they
    are and end.
    """
    context = get_context("spawn")  # a fork would share torch's threads and the GPU
    with ProcessPoolExecutor(jobs, context, _begin, (plan, out, jobs)) as pool:
        for of_dense in (True, False):
            waiting = {
                pool.submit(_make, cell): cell
                for cell in planned
                if (cell.method == DENSE) == of_dense
            }
            try:
                for done in as_completed(waiting):
                    yield waiting[done], _outcome(done)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in active_children():
                    process.terminate()
                raise


def _outcome(done: Future[dict[str, Any]]) -> Outcome:
    try:
        return done.result()
    except BrokenProcessPool as problem:
        raise RunError(
            "one of the processes ended by itself: is there memory for so many (--jobs)?"
        ) from problem
    except RunError as problem:
        return problem


_maker: CellMaker
"""A process reads the images once, for all the cells that it makes."""


def _begin(plan: Comparison, out: Path, jobs: int) -> None:
    import torch

    global _maker  # noqa: PLW0603 - what a process of a pool keeps between two tasks
    os.setsid()  # Ctrl-C comes to the first process alone, which then ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    _maker = CellMaker(plan, out, no_progress)


def _end_with_parent() -> None:
    """Leave when the process that asks for cells was killed, instead of waiting for ever."""
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _make(cell: Cell) -> dict[str, Any]:
    try:
        return _maker.row(cell)
    except Interrupted as told:
        os._exit(told.exit_status)  # a process that lived on would take the next cell
