"""The verb `compare`: networks x methods x budgets x M x seeds become one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli.verb import Answer, Verb
from thinlens.errors import RunError, UsageError
from thinlens.progress import progress_bar

if TYPE_CHECKING:
    from thinlens.experiments.comparison import Cell, Comparison


@dataclass(frozen=True, kw_only=True)
class Compare(Verb):
    """Prune networks by several methods at equal steps, judge them all, and write one table; the
    same command again goes on where it stopped.

    Example: thinlens compare recipes/smoke.toml
    """

    recipe: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECIPE.toml")]
    """TOML: networks, methods, budgets, m, seeds, data, and the tables [tests], [training],
    [crops], [task] and [judging] (the task's options, always and in tests), [fresh.NAME] (a network
    to train first) and [variants.NAME] (a method's settings)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the cells, the tables and the pictures (default: runs/<the recipe's name>)."""
    jobs: int = 1
    """Networks that are made at once, each in a process of its own."""
    rounds: int = 0
    """Timed runs of every network in the native engine, in turns, in the end (column ms)."""
    threads: int = 2
    """Threads of these runs."""

    def run(self) -> Answer:
        from thinlens.experiments.comparison import cells, read_comparison
        from thinlens.experiments.comparison_pictures import draw
        from thinlens.experiments.comparison_rows import as_table, pictures

        self._check_numbers()
        plan = read_comparison(self.recipe)
        out = self.out or Path("runs") / self.recipe.stem
        rows: dict[Cell, dict[str, Any]] = {}
        failures: list[str] = []
        planned = cells(plan)
        for cell, outcome in self._made(plan, out, planned):
            if isinstance(outcome, RunError):
                failures.append(f"{cell.folder}: {outcome}")
            else:
                rows[cell] = outcome
            rows = {cell: rows[cell] for cell in planned if cell in rows}  # as planned
            _write(out, list(rows.values()))
        if self.rounds:
            self._time(rows, out)
            _write(out, list(rows.values()))
        content = {
            "recipe": str(self.recipe),
            "out": str(out),
            "done": len(rows),
            "failed": len(failures),
            "left_out": list(plan.left_out),
            "rows": list(rows.values()),
        }
        told = [f"{out}: table.csv, table.md", *draw(plan, rows, out)]
        told += pictures(out, list(rows.values()))
        told += [f"{name} is left out: its folder is not known" for name in plan.left_out]
        return Answer(content, (as_table(list(rows.values())).rich(), *told), tuple(failures))

    def _made(
        self, plan: Comparison, out: Path, planned: Sequence[Cell]
    ) -> Iterator[tuple[Cell, dict[str, Any] | RunError]]:
        """Make the cells, here or in processes, and yield each one's row or why it has none."""
        from thinlens.experiments.run_processes import made
        from thinlens.experiments.runs import CellMaker

        if self.jobs > 1:
            with progress_bar(f"{self.jobs} cells at once") as report:
                for done, pair in enumerate(made(plan, out, planned, self.jobs), start=1):
                    report(done, len(planned), {})
                    yield pair
            return
        for number, cell in enumerate(planned, start=1):
            with progress_bar(f"cell {number} of {len(planned)}: {cell.folder}") as report:
                try:
                    yield cell, CellMaker(plan, out, report).row(cell)
                except RunError as problem:
                    yield cell, problem

    def _check_numbers(self) -> None:
        from thinlens.engine.compiled import MOST_THREADS

        if self.jobs < 1:
            raise UsageError(f"--jobs {self.jobs}: wanted 1 or more")
        if self.rounds < 0:
            raise UsageError(f"--rounds {self.rounds}: wanted 0 or more")
        if not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"--threads {self.threads}: wanted 1 to {MOST_THREADS}")

    def _time(self, rows: Mapping[Cell, dict[str, Any]], out: Path) -> None:
        """Add milliseconds to the rows whose networks the engine runs."""
        from thinlens.experiments.run_times import cell_times

        whole = [cell for cell, row in rows.items() if not row["error"]]
        with progress_bar("timing all networks") as report:
            for cell, ms in cell_times(whole, out, self.threads, self.rounds, report).items():
                rows[cell]["ms"] = ms


def _write(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    from thinlens.experiments.comparison_rows import as_csv, as_table
    from thinlens.files import atomic_write

    for name, text in (("table.csv", as_csv(rows)), ("table.md", as_table(rows).markdown())):
        with atomic_write(out / name) as file:
            file.write(text.encode())
