"""How is a comparison drawn: quality against cost, and images side by side? (SLS, Fig. 1 and 5)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from thinlens.api import load
from thinlens.errors import UsageError
from thinlens.experiments.comparison import DENSE, Cell, Comparison
from thinlens.experiments.restored_pictures import draw_restored
from thinlens.report.trade_off import Axis, trade_off_picture
from thinlens.tasks import make_task
from thinlens.tasks.folders import open_pairs

Rows = Mapping[Cell, Mapping[str, Any]]
"""What `compare` knows of each cell."""


def draw(plan: Comparison, rows: Rows, out: Path) -> list[str]:
    """Draw all pictures of a comparison into `out`, and say which."""
    made: list[Path] = []
    for network in plan.networks:
        told = {c: r for c, r in rows.items() if c.network == network and not r["error"]}
        for test, folder in plan.tests.items():
            name = f"{Path(network).name}-{test}"
            try:
                made.append(out / f"trade-off-{name}.png")
                trade_off_picture(made[-1], [_axis(told, test)], name)
            except UsageError as missing:
                return [f"no pictures: {missing}"]
            if _shown(told):
                made.append(out / f"images-{name}.png")
                _side_by_side(made[-1], told, Path(folder), out)
    return [f"{path}: drawn" for path in made]


def _axis(rows: Rows, test: str) -> Axis:
    """Take a test set's PSNR by GMACs: a curve for each method, means over seeds."""
    scored = {c: r for c, r in rows.items() if test in r["scores"]}
    groups: dict[str, dict[tuple[str, int | None], list[tuple[float, float]]]] = {}
    for cell, row in scored.items():
        if cell.method != DENSE:
            several = len({c.m for c in scored if c.method == cell.method}) > 1
            name = f"{cell.label}, M = {cell.m}" if several else cell.label
            point = (row["macs"] / 1e9, row["scores"][test]["psnr"])
            groups.setdefault(name, {}).setdefault((cell.budget, cell.m), []).append(point)
    curves = {name: sorted(map(_mean, points.values())) for name, points in groups.items()}
    static = {
        cell.method: (row["macs"] / 1e9, row["scores"][test]["psnr"])
        for cell, row in scored.items()
        if cell.method == DENSE
    }
    return Axis("GMACs", static, curves)


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return fmean(x for x, _ in points), fmean(y for _, y in points)


def _shown(rows: Rows) -> list[Cell]:
    """Choose the cells whose images are shown: every method at its lowest budget, one seed."""
    found: dict[str, Cell] = {}
    for cell, row in rows.items():
        if row["scores"] and cell.method != DENSE:
            best = found.get(cell.label)
            if best is None or row["macs"] < rows[best]["macs"]:
                found[cell.label] = cell
    return list(found.values())


def _side_by_side(path: Path, rows: Rows, folder: Path, out: Path) -> None:
    """Show a set's first image as the cells of `_shown` restore it."""
    dense = next(cell for cell in rows if cell.method == DENSE)
    task = make_task(**load(dense.source(out)).task)
    networks = (
        (f"{cell.label} {cell.budget}", load(cell.source(out)).module) for cell in _shown(rows)
    )
    draw_restored(path, task, open_pairs(folder, task)[0], 0, networks)
