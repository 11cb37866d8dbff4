"""A comparison's runs on the processes of torchrun: each run is executed by one of them, by itself.

So its result is that of one process, bit for bit, and no batch must divide among processes. Which
runs are taken, and what came of them, is in the store that torchrun's processes share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed import DistError

from thinlens.errors import RunError, UsageError
from thinlens.experiments.plan import ComparisonPlan, Run
from thinlens.experiments.run_processes import Outcome, stage_of
from thinlens.experiments.runs import RunExecutor
from thinlens.progress import no_progress
from thinlens.torchrun import as_one_process, is_main_process, local_rank
from thinlens.training.processes import attempt_store

POLL_OUTCOME_SECONDS = 0.1
"""Between two looks at the store for a run of another process."""

_MISTAKE = "mistake"
"""The key of the store under which a `UsageError` is that ends all."""


def execute_on_torchrun(
    plan: ComparisonPlan, out: Path, runs: Sequence[Run]
) -> Iterator[tuple[Run, Outcome]]:
    """Execute the runs, each by the first process that is free; yield all by the main process.

    The others yield nothing. `out` is a folder that all of them see. Stages are those of
    `run_processes`. The main process raises the `UsageError` of any run, and the others end.
    """
    board = RunBoard(attempt_store()[0])
    try:
        yield from _execute(board, plan, out, runs)
    except DistError as error:  # the store may be the main process's
        raise RunError("the main process has ended: this one stops too") from error


def _execute(
    board: RunBoard, plan: ComparisonPlan, out: Path, runs: Sequence[Run]
) -> Iterator[tuple[Run, Outcome]]:
    _use_gpu(local_rank())
    with as_one_process():
        executor = RunExecutor(plan, out, no_progress)
    stages = sorted({stage_of(run) for run in runs})
    for stage in stages:
        numbers = [number for number, run in enumerate(runs) if stage_of(run) == stage]
        for number in numbers:
            if board.take(number):
                board.publish(number, _row_or_error(executor, runs[number]))
        if is_main_process():
            yield from ((runs[number], board.outcome(number)) for number in numbers)
        elif stage != stages[-1] and not board.wait(numbers):
            return


class RunBoard:
    """What processes publish of a comparison's runs, in a store of `torch.distributed`.

    >>> board = RunBoard(torch.distributed.HashStore())
    >>> board.take(0), board.take(0)
    (True, False)
    >>> board.publish(0, {"psnr": 30.0})
    >>> board.outcome(0)
    {'psnr': 30.0}
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def take(self, number: int) -> bool:
        """Return whether this process is the first that takes a run; none is after a mistake."""
        if self._store.check([_MISTAKE]):
            return False
        return bool(self._store.add(f"taken-{number}", 1) == 1)

    def publish(self, number: int, outcome: Outcome | UsageError) -> None:
        """Publish a run's row, why there is none, or a mistake that ends the comparison."""
        if isinstance(outcome, UsageError):
            self._store.set(_MISTAKE, str(outcome))
            return
        is_error = isinstance(outcome, RunError)
        content = {"error": str(outcome)} if is_error else {"row": outcome}
        self._store.set(f"outcome-{number}", json.dumps(content))

    def outcome(self, number: int) -> Outcome:
        """Wait for a run of any process; `UsageError` after a mistake."""
        if not self.wait([number]):
            raise UsageError(self._store.get(_MISTAKE).decode())
        content = json.loads(self._store.get(f"outcome-{number}"))
        row: dict[str, Any] | None = content.get("row")
        return RunError(content["error"]) if row is None else row

    def wait(self, numbers: Sequence[int]) -> bool:
        """Wait until these runs have ended; return whether they have, and not by a mistake."""
        keys = [f"outcome-{number}" for number in numbers]
        while not self._store.check(keys):
            if self._store.check([_MISTAKE]):
                return False
            time.sleep(POLL_OUTCOME_SECONDS)
        return True


def _row_or_error(executor: RunExecutor, run: Run) -> Outcome | UsageError:
    try:
        with as_one_process():
            return executor.execute(run)
    except (RunError, UsageError) as problem:
        return problem


def _use_gpu(number: int) -> None:
    """Let a process, one of several of a machine, see one GPU; before CUDA is used."""
    count = torch.cuda.device_count()
    if count > 1:
        every = ",".join(map(str, range(count)))
        names = os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = names[number % count]
