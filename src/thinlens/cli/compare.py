"""The verb `compare`: networks x methods x budgets x M x seeds become one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from thinlens.cli.progress import progress
from thinlens.cli.verb import Answer, Verb
from thinlens.errors import RunError


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
    """Folder of the cells, table.csv and table.md (default: runs/<the recipe's name>)."""

    def run(self) -> Answer:
        from thinlens.cli.cells import CellMaker, cells, read_comparison
        from thinlens.cli.comparison_rows import as_csv, as_table, pictures
        from thinlens.files import atomic_write

        plan = read_comparison(self.recipe)
        out = self.out or Path("runs") / self.recipe.stem
        rows: list[dict[str, Any]] = []
        failures: list[str] = []
        planned = cells(plan)
        for number, cell in enumerate(planned, start=1):
            with progress(f"cell {number} of {len(planned)}: {cell.folder}") as report:
                try:
                    rows.append(CellMaker(plan, out, report).row(cell))
                except RunError as problem:
                    failures.append(f"{cell.folder}: {problem}")
            for name, text in (
                ("table.csv", as_csv(rows)),
                ("table.md", as_table(rows).markdown()),
            ):
                with atomic_write(out / name) as file:
                    file.write(text.encode())
        content = {
            "recipe": str(self.recipe),
            "out": str(out),
            "done": len(rows),
            "failed": len(failures),
            "left_out": list(plan.left_out),
            "rows": rows,
        }
        told = [f"{out}: table.csv, table.md"]
        told += pictures(out, rows)
        told += [f"{name} is left out: its folder is not known" for name in plan.left_out]
        return Answer(content, (as_table(rows).rich(), *told), tuple(failures))
