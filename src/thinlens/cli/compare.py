"""The verb `compare`: networks x methods x budgets x M x seeds become one table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli.progress import progress
from thinlens.cli.verb import Answer, Verb
from thinlens.errors import RunError, UsageError

if TYPE_CHECKING:
    from thinlens.cli.comparison import Cell
    from thinlens.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class Compare(Verb):
    """Prune networks by several methods at equal steps, judge them all, and write one table; the
    same command again goes on where it stopped.

    Example: thinlens compare recipes/smoke.toml
    """

    recipe: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECIPE.toml")]
    """TOML: networks, methods, budgets, m, seeds, data, and the tables [tests], [training],
    [crops], [fresh.NAME] (a network to train first) and [variants.NAME] (a method's settings)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the cells, the tables and the pictures (default: runs/<the recipe's name>)."""
    rounds: int = 0
    """Timed runs of every network in the native engine, in turns, in the end (column ms)."""
    threads: int = 2
    """Threads of these runs."""

    def run(self) -> Answer:
        from thinlens.cli.cells import CellMaker
        from thinlens.cli.compare_pictures import draw
        from thinlens.cli.comparison import cells, read_comparison

        self._check_numbers()
        plan = read_comparison(self.recipe)
        out = self.out or Path("runs") / self.recipe.stem
        rows: dict[Cell, dict[str, Any]] = {}
        failures: list[str] = []
        planned = cells(plan)
        for number, cell in enumerate(planned, start=1):
            with progress(f"cell {number} of {len(planned)}: {cell.folder}") as report:
                try:
                    rows[cell] = CellMaker(plan, out, report).row(cell)
                except RunError as problem:
                    failures.append(f"{cell.folder}: {problem}")
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
        told += [f"{name} is left out: its folder is not known" for name in plan.left_out]
        return Answer(content, (_table(list(rows.values())).rich(), *told), tuple(failures))

    def _check_numbers(self) -> None:
        from thinlens.engine.compiled import MOST_THREADS

        if self.rounds < 0:
            raise UsageError(f"--rounds {self.rounds}: wanted 0 or more")
        if not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"--threads {self.threads}: wanted 1 to {MOST_THREADS}")

    def _time(self, rows: Mapping[Cell, dict[str, Any]], out: Path) -> None:
        """Add milliseconds to the rows whose networks the engine runs."""
        from thinlens.cli.cell_times import cell_times

        whole = [cell for cell, row in rows.items() if not row["error"]]
        with progress("timing all networks") as report:
            for cell, ms in cell_times(whole, out, self.threads, self.rounds, report).items():
                rows[cell]["ms"] = ms


def _write(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    from thinlens.files import atomic_write

    for name, text in (("table.csv", _csv(rows)), ("table.md", _table(rows).markdown())):
        with atomic_write(out / name) as file:
            file.write(text.encode())


COLUMNS = ("network", "method", "preset", "budget", "m", "seed")
NUMBERS = ("budget_base", "achieved", "macs", "paper_gmacs", "params", "bytes", "ms", "seconds")


def _sets(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.get("scores", {})))


METRICS = ("macs", "params")
PARTS = {"channels": "by channels", "weights": "by weights", "left": "left"}
"""What some methods tell beside: who removed what, of multiply-adds and of parameters."""


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """Write every number in full, a line a cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = [(name, key) for name in _sets(rows) for key in ("psnr", "ssim")]
    keys = (*COLUMNS, *NUMBERS, "error")
    parts = [(metric, part) for metric in METRICS for part in PARTS if _tells(rows)]
    head = [f"{metric}_{part}" for metric, part in parts] + ["variant"] * bool(parts)
    writer.writerow([*keys, *(f"{name}_{key}" for name, key in scores), *head])
    for row in rows:
        figures = [row.get("scores", {}).get(name, {}).get(key) for name, key in scores]
        told = [(row.get("parts") or {}).get(metric, {}).get(part) for metric, part in parts]
        told += [row.get("variant")] * bool(parts)
        writer.writerow([*(row.get(key) for key in keys), *figures, *told])
    return text.getvalue()


def _tells(rows: Sequence[dict[str, Any]]) -> bool:
    return any(row.get("parts") for row in rows)


def _parts(row: Mapping[str, Any]) -> list[str]:
    """Write who removed what, of multiply-adds / of parameters; empty where no one says."""
    told = row.get("parts")
    texts = (
        " / ".join(f"{told[metric][part]:.2%}" for metric in METRICS) if told else ""
        for part in PARTS
    )
    return list(texts)


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    """Lay the rows out as the papers do: GMACs, parameters, PSNR / SSIM per test set."""
    from thinlens.report.price import BUDGET_BASE
    from thinlens.report.tables import Table, count, giga

    sets, tells = _sets(rows), _tells(rows)
    timed = any("ms" in row for row in rows)

    def line(row: dict[str, Any]) -> tuple[str, ...]:
        method = f"{row['method']} ({row['preset']})" if row["preset"] else row["method"]
        method = row.get("variant") or method
        budget = "" if row["method"] == "dense" else row["budget"]
        head = (row["network"], method, budget, str(row["m"] or ""), str(row["seed"]))
        if row["error"]:
            return (*head, *[""] * (4 + timed + len(PARTS) * tells + len(sets)), row["error"])
        scores = [row["scores"].get(name) for name in sets]
        whole = row["budget_base"] not in (None, BUDGET_BASE)
        kept = f"{row['achieved']:.2%}" + (f" of all {row['budget_base']}" if whole else "")
        return (
            *(*head, kept, giga(row["macs"]), f"{row['paper_gmacs']:.2f}"),
            *(
                count(row["params"]),
                *([f"{row['ms']:.1f}" if "ms" in row else ""] if timed else []),
            ),
            *(_parts(row) if tells else ()),
            *(*(f"{s['psnr']:.2f} / {s['ssim']:.4f}" if s else "" for s in scores), ""),
        )

    head = ("network", "method", "budget", "M", "seed", "kept", "GMACs", "paper's", "parameters")
    told = [f"{part} (macs / params)" for part in PARTS.values()] if tells else []
    return Table((*head, *["ms"] * timed, *told, *sets, "note"), [line(row) for row in rows])
