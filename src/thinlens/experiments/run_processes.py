"""Parallel execution of a comparison's runs in a process pool."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from thinlens.errors import RunError
from thinlens.experiments.plan import DENSE_METHOD, ComparisonPlan, Run
from thinlens.experiments.runs import RunExecutor
from thinlens.progress import no_progress
from thinlens.signals import Interrupted

STAGES = 3
"""Dense networks, pruned ones, and those with references to these."""

Outcome = dict[str, Any] | RunError
"""A run's row, or the reason why there is none."""


def execute_in_processes(
    plan: ComparisonPlan, out: Path, runs: Sequence[Run], jobs: int
) -> Iterator[tuple[Run, Outcome]]:
    """Execute runs in up to `jobs` processes; yield each as it finishes.

    The dense networks are first, runs that take an option from another's record last.

    Raises the `UsageError` of a run. Then, as after Ctrl-C or SIGTERM, the others save their
    training states and end.
    """
    context = _context()
    with ProcessPoolExecutor(jobs, context, _start, (plan, out, jobs)) as pool:
        for stage in range(STAGES):
            waiting = {pool.submit(_execute, run): run for run in runs if stage_of(run) == stage}
            try:
                for done in as_completed(waiting):
                    yield waiting[done], _outcome(done)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in active_children():
                    process.terminate()
                raise


def stage_of(run: Run) -> int:
    """Return the stage of a run, before which those of the earlier stages must have ended."""
    if run.method == DENSE_METHOD:
        return 0
    return 2 if run.references else 1


def _context() -> BaseContext:
    """Return how the processes start: forked from one that has imported torch and runs nothing,
    where the system can; a fork of this process would share torch's threads and the GPU."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["thinlens.experiments.runs"])
    return context


def _outcome(done: Future[dict[str, Any]]) -> Outcome:
    try:
        return done.result()
    except BrokenProcessPool as problem:
        raise RunError(
            "one of the processes ended by itself: is there memory for so many (--jobs)?"
        ) from problem
    except RunError as problem:
        return problem


_executor: RunExecutor
"""The executor of a pool's process, which reads the images once for all its runs."""


def _start(plan: ComparisonPlan, out: Path, jobs: int) -> None:
    import torch

    global _executor  # noqa: PLW0603 - what a process of a pool keeps between two tasks
    os.setsid()  # Ctrl-C reaches the first process alone, which then ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    _executor = RunExecutor(plan, out, no_progress)


def _end_with_parent() -> None:
    """End when the parent process was killed, instead of waiting forever."""
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _execute(run: Run) -> dict[str, Any]:
    try:
        return _executor.execute(run)
    except Interrupted as signal:
        os._exit(signal.exit_status)  # otherwise the process would start the next run
