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
from thinlens.errors import RunError

if TYPE_CHECKING:
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
    """Folder of the cells, table.csv and table.md (default: runs/<the recipe's name>)."""

    def run(self) -> Answer:
        from thinlens.cli.cells import CellMaker
        from thinlens.cli.comparison import cells, read_comparison
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
            for name, text in (("table.csv", _csv(rows)), ("table.md", _table(rows).markdown())):
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
        told += [f"{name} is left out: its folder is not known" for name in plan.left_out]
        return Answer(content, (_table(rows).rich(), *told), tuple(failures))


COLUMNS = ("network", "method", "preset", "budget", "m", "seed")
NUMBERS = ("budget_base", "achieved", "macs", "paper_gmacs", "params", "bytes", "seconds")


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

    def line(row: dict[str, Any]) -> tuple[str, ...]:
        method = f"{row['method']} ({row['preset']})" if row["preset"] else row["method"]
        method = row.get("variant") or method
        budget = "" if row["method"] == "dense" else row["budget"]
        head = (row["network"], method, budget, str(row["m"] or ""), str(row["seed"]))
        if row["error"]:
            return (*head, *[""] * (4 + len(PARTS) * tells + len(sets)), row["error"])
        scores = [row["scores"].get(name) for name in sets]
        whole = row["budget_base"] not in (None, BUDGET_BASE)
        kept = f"{row['achieved']:.2%}" + (f" of all {row['budget_base']}" if whole else "")
        return (
            *(*head, kept, giga(row["macs"]), f"{row['paper_gmacs']:.2f}"),
            *(count(row["params"]), *(_parts(row) if tells else ())),
            *(*(f"{s['psnr']:.2f} / {s['ssim']:.4f}" if s else "" for s in scores), ""),
        )

    head = ("network", "method", "budget", "M", "seed", "kept", "GMACs", "paper's", "parameters")
    told = [f"{part} (macs / params)" for part in PARTS.values()] if tells else []
    return Table((*head, *told, *sets, "note"), [line(row) for row in rows])
