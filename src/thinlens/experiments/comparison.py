"""Comparison of pruning methods at equal training steps, in one resumable folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinlens.api import load_checkpoint
from thinlens.benchmark.cases import NativeCase, torch_output
from thinlens.benchmark.inputs import smooth_image
from thinlens.benchmark.interleaved import BenchCase, run_interleaved
from thinlens.engine.compiled import Compiled
from thinlens.engine.native import native
from thinlens.errors import RunError, UsageError
from thinlens.experiments.comparison_report import write_comparison_pages
from thinlens.experiments.network_report import timing_sentence
from thinlens.experiments.networks import HD_SIZE, input_shape
from thinlens.experiments.plan import DENSE_METHOD, ComparisonPlan, Run, all_runs, read_plan
from thinlens.experiments.result_plots import draw_comparison, draw_routed
from thinlens.experiments.result_table import as_csv, as_table
from thinlens.experiments.run_processes import Outcome, execute_in_processes
from thinlens.experiments.runs import RunExecutor
from thinlens.experiments.shared_runs import execute_on_torchrun
from thinlens.files import atomic_write
from thinlens.progress import Progress, no_progress, progress_bar
from thinlens.report.tables import Table
from thinlens.tasks import make_task
from thinlens.torchrun import is_main_process, process_count
from thinlens.training.processes import exclusive_run


@dataclass(frozen=True)
class ComparisonResult:
    """The results of all runs of a comparison."""

    out: Path
    """The folder of the runs, table.csv, table.md and the figures."""
    rows: tuple[dict[str, Any], ...]
    """One for each run in the order of the plan, as `thinlens compare --json` prints them; none on
    processes of torchrun but the main one."""
    failures: tuple[str, ...]
    """Runs that ended with an error of the machine, such as a full disk, as FOLDER: REASON."""
    skipped_tests: tuple[str, ...]
    """Test sets whose folders name an environment variable that is not set."""
    figures: tuple[str, ...]
    """One sentence for each figure."""

    @property
    def table(self) -> Table:
        """The rows as a table for terminals, Markdown and HTML."""
        return as_table(self.rows)


def compare(
    recipe: str | Path,
    out: str | Path | None = None,
    *,
    jobs: int = 1,
    rounds: int = 0,
    threads: int = 2,
    progress: bool = False,
) -> ComparisonResult:
    """Prune networks by several methods at equal steps, evaluate all, and write one table.

    `recipe` is a TOML file like recipes/smoke.toml; `out` is by default runs/NAME for NAME.toml.
    The same call resumes an interrupted comparison. `jobs` runs are executed at a time, each in a
    process; on the processes of torchrun each run is executed by one of them, and the main process
    writes the tables. With `rounds` all networks are then timed interleaved in the native engine on
    `threads` threads (column ms). `progress` shows bars on a terminal's stderr.

    Raises `UsageError` for a wrong recipe, or a folder of another one, and `RunError` while another
    process writes to the folder.

    >>> from thinlens.api import save
    >>> from thinlens.models import create
    >>> module, task = create("dncnn-17", depth=3, width=8), make_task("denoise")
    >>> _ = save("small", module, model="dncnn-17", task=task)
    >>> lines = ['networks = ["small"]', 'methods = ["one-shot"]', 'budgets = ["1/2"]', "m = [4]"]
    >>> lines += ['data = "photos"', "[crops]", "patch = 16"]
    >>> _ = Path("recipe.toml").write_text("\\n".join(lines))
    >>> [(row["method"], row["achieved"]) for row in compare("recipe.toml", "compared").rows]
    [('dense', 1.0), ('one-shot', 0.5)]
    """
    recipe = Path(recipe)
    plan = read_plan(recipe)
    folder = Path(out) if out is not None else Path("runs") / recipe.stem
    if jobs > 1 and process_count() > 1:
        raise UsageError(f"--jobs {jobs}: wanted none, torchrun's processes share the runs")
    with exclusive_run(folder):
        return _compare(plan, folder, jobs, (rounds, threads), progress)


def _compare(
    plan: ComparisonPlan, folder: Path, jobs: int, timing: tuple[int, int], progress: bool
) -> ComparisonResult:
    (rounds, threads), runs = timing, all_runs(plan)
    rows: dict[Run, dict[str, Any]] = {}
    failures: list[str] = []
    for run, outcome in _execute(plan, folder, runs, jobs, progress):
        if isinstance(outcome, RunError):
            failures.append(f"{run.folder}: {outcome}")
        else:
            rows[run] = outcome
        rows = {run: rows[run] for run in runs if run in rows}  # in the order of the plan
        _write_tables(folder, list(rows.values()))
    if not is_main_process():
        return ComparisonResult(folder, (), (), plan.skipped_tests, ())
    if rounds:
        timed = [run for run, row in rows.items() if not row["error"]]
        with _bar("timing all networks", progress) as report:
            for run, ms in measure_runs(timed, folder, threads, rounds, report).items():
                rows[run]["ms"] = ms
        _write_tables(folder, list(rows.values()))
    figures = draw_comparison(plan, rows, folder) + draw_routed(folder, list(rows.values()))
    size = f"for an output of {HD_SIZE[1]}x{HD_SIZE[0]}"
    machine = timing_sentence(rounds, size, threads) if rounds else ""
    figures += write_comparison_pages(plan, rows, folder, machine)
    return ComparisonResult(
        folder, tuple(rows.values()), tuple(failures), plan.skipped_tests, tuple(figures)
    )


def _execute(
    plan: ComparisonPlan, out: Path, runs: Sequence[Run], jobs: int, progress: bool
) -> Iterator[tuple[Run, Outcome]]:
    """Execute the runs, here or in processes, and yield each with its row or its error."""
    processes = process_count()
    if max(jobs, processes) > 1:
        label = f"{max(jobs, processes)} runs at once"
        with _bar(label, progress and is_main_process()) as report:
            if processes > 1:
                outcomes = execute_on_torchrun(plan, out, runs)
            else:
                outcomes = execute_in_processes(plan, out, runs, jobs)
            for done, pair in enumerate(outcomes, start=1):
                report(done, len(runs), {})
                yield pair
        return
    for number, run in enumerate(runs, start=1):
        with _bar(f"run {number} of {len(runs)}: {run.folder}", progress) as report:
            try:
                yield run, RunExecutor(plan, out, report).execute(run)
            except RunError as problem:
                yield run, problem


def _bar(label: str, progress: bool) -> AbstractContextManager[Progress]:
    return progress_bar(label) if progress else nullcontext(no_progress)


def _write_tables(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    for name, text in (("table.csv", as_csv(rows)), ("table.md", as_table(rows).markdown())):
        with atomic_write(out / name) as file:
            file.write(text.encode())


def measure_runs(
    runs: Sequence[Run], out: Path, threads: int, rounds: int, progress: Progress
) -> Mapping[Run, float]:
    """Return the median milliseconds of each network on an HD image, measured interleaved.

    Networks that the engine does not support are omitted. Raises `UsageError` where the engine was
    not built.
    """
    if native() is None:
        raise UsageError("--rounds: the native engine was not built")
    cases: dict[Run, BenchCase] = {}
    for run in runs:
        checkpoint = load_checkpoint(run.source(out))
        shape = input_shape(make_task(**checkpoint.task), HD_SIZE)
        image = smooth_image(shape[0], shape[1:])
        try:
            call = NativeCase(Compiled(checkpoint.module.eval(), threads), image).run
            call()
        except UsageError:
            continue
        expected = torch_output(checkpoint.module, image)
        cases[run] = BenchCase(str(run.folder), "fp32", run.method != DENSE_METHOD, call, expected)
    rows = run_interleaved(list(cases.values()), threads, rounds, progress=progress)
    return {run: row.ms for run, row in zip(cases, rows, strict=True)}
