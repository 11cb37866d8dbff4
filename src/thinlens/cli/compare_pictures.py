"""How is a comparison drawn: quality against cost, and images side by side? (SLS, Fig. 1 and 5)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from thinlens.api import load
from thinlens.cli.comparison import DENSE, Cell, Comparison
from thinlens.errors import UsageError
from thinlens.images.pixels import to_uint8
from thinlens.report.comparison import Panel, detail, side_by_side
from thinlens.report.trade_off import Axis, trade_off_picture
from thinlens.restoration.whole import restore_image
from thinlens.tasks import make_task
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.metrics import psnr

DETAIL, ZOOM = 112, 2
"""Side in pixels of the part of an image that is shown, and how much larger it is drawn."""

Rows = Mapping[Cell, Mapping[str, Any]]
"""What `compare` knows of each cell."""


def draw(plan: Comparison, rows: Rows, out: Path) -> list[str]:
    """Draw all pictures of a comparison into `out`, and say which."""
    made: list[Path] = []
    for network in plan.networks:
        told = {c: r for c, r in rows.items() if c.network == network and not r["error"]}
        for test, folder in plan.tests.items():
            name = f"{Path(network).name}-{test}.png"
            try:
                trade_off_picture(out / f"trade-off-{name}", [_axis(told, test)], f"{name[:-4]}")
                made.append(out / f"trade-off-{name}")
            except UsageError as missing:
                return [f"no pictures: {missing}"]
            if _shown(told):
                _side_by_side(out / f"images-{name}", told, Path(folder), out)
                made.append(out / f"images-{name}")
    return [f"{path}: drawn" for path in made]


def label(cell: Cell) -> str:
    """Return what the method of a cell is called."""
    return cell.variant or (f"{cell.method} ({cell.preset})" if cell.preset else cell.method)


def _axis(rows: Rows, test: str) -> Axis:
    """Take a test set's PSNR by GMACs: a curve for each method, means over seeds."""
    scored = {c: r for c, r in rows.items() if test in r["scores"]}
    groups: dict[str, dict[tuple[str, int | None], list[tuple[float, float]]]] = {}
    for cell, row in scored.items():
        if cell.method != DENSE:
            several = len({c.m for c in scored if c.method == cell.method}) > 1
            name = f"{label(cell)}, M = {cell.m}" if several else label(cell)
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
            best = found.get(label(cell))
            if best is None or row["macs"] < rows[best]["macs"]:
                found[label(cell)] = cell
    return list(found.values())


def _side_by_side(path: Path, rows: Rows, folder: Path, out: Path) -> None:
    """Show the most detailed part of a set's first image, whole-image PSNR below each."""
    dense = next(cell for cell in rows if cell.method == DENSE)
    given = out / dense.folder
    task = make_task(**load(given if (given / "config.json").is_file() else dense.network).task)
    pair = open_pairs(folder, task)[0]
    image, target = read_pair(pair, task, 0, seed=0)
    side = min(DETAIL, *target.shape[-2:])
    top, left = detail(target.float() / 255, side)
    part = (slice(None), slice(top, top + side), slice(left, left + side))

    def panels() -> Iterator[Panel]:
        yield Panel(f"original\n{pair.name}", target[part].float() / 255)
        for cell in _shown(rows):
            restored = restore_image(load(out / cell.folder).module, image)
            decibels = psnr(to_uint8(restored), target, task.judgement)
            yield Panel(f"{label(cell)} {cell.budget}\n{decibels:.2f} dB", restored[part])

    side_by_side(path, list(panels()), ZOOM)
