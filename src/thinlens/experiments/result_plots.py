"""Figures of a comparison: quality against cost, restorations side by side, branch shares.

SLS, Figs. 1 and 5; ClassPruning, Figs. 1 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from thinlens.api import load_checkpoint
from thinlens.errors import UsageError
from thinlens.experiments.plan import DENSE_METHOD, ComparisonPlan, Run
from thinlens.experiments.restorations import draw_restorations
from thinlens.experiments.result_table import (
    ResultRow,
    is_routed,
    mean_flops,
    row_label,
    row_run,
    set_names,
)
from thinlens.report.branch_plots import draw_branch_shares, read_branch_shares
from thinlens.report.trade_off import CostAxis, draw_trade_off
from thinlens.tasks import make_task
from thinlens.tasks.folders import open_pairs

RowsByRun = Mapping[Run, Mapping[str, Any]]
"""The result row of each run."""


def draw_comparison(plan: ComparisonPlan, rows: RowsByRun, out: Path) -> list[str]:
    """Draw trade-offs and side-by-side images of every network and test set; return a summary."""
    files: list[Path] = []
    for network in plan.networks:
        done = {x: r for x, r in rows.items() if x.network == network and not r["error"]}
        for test, folder in plan.tests.items():
            name = f"{Path(network).name}-{test}"
            try:
                files.append(out / f"trade-off-{name}.png")
                draw_trade_off(files[-1], [_macs_axis(done, test)], name)
            except UsageError as problem:
                return [f"no pictures: {problem}"]
            if _cheapest_runs(done):
                files.append(out / f"images-{name}.png")
                _side_by_side(files[-1], done, Path(folder), out)
    return [f"{path}: drawn" for path in files]


def _macs_axis(rows: RowsByRun, test: str) -> CostAxis:
    """Return PSNR by GMACs on a test set: a curve for each method, means over seeds."""
    scored = {run: row for run, row in rows.items() if test in row["scores"]}
    groups: dict[str, dict[tuple[str, int | None], list[tuple[float, float]]]] = {}
    for run, row in scored.items():
        if run.method != DENSE_METHOD:
            several = len({x.m for x in scored if x.method == run.method}) > 1
            name = f"{run.label}, M = {run.m}" if several else run.label
            point = (row["macs"] / 1e9, row["scores"][test]["psnr"])
            groups.setdefault(name, {}).setdefault((run.budget, run.m), []).append(point)
    curves = {name: sorted(map(_mean, points.values())) for name, points in groups.items()}
    static = {
        run.method: (row["macs"] / 1e9, row["scores"][test]["psnr"])
        for run, row in scored.items()
        if run.method == DENSE_METHOD
    }
    return CostAxis("GMACs", static, curves)


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return fmean(x for x, _ in points), fmean(y for _, y in points)


def _cheapest_runs(rows: RowsByRun) -> list[Run]:
    """Return the cheapest run of every method, one seed."""
    cheapest: dict[str, Run] = {}
    for run, row in rows.items():
        if row["scores"] and run.method != DENSE_METHOD:
            best = cheapest.get(run.label)
            if best is None or row["macs"] < rows[best]["macs"]:
                cheapest[run.label] = run
    return list(cheapest.values())


def _side_by_side(path: Path, rows: RowsByRun, folder: Path, out: Path) -> None:
    """Draw a set's first image as the cheapest run of every method restores it."""
    dense = next(run for run in rows if run.method == DENSE_METHOD)
    task = make_task(**load_checkpoint(dense.source(out)).task)
    networks = (
        (f"{run.label} {run.budget}", load_checkpoint(run.source(out)).module)
        for run in _cheapest_runs(rows)
    )
    draw_restorations(path, task, open_pairs(folder, task)[0], 0, networks)


def draw_routed(out: Path, rows: Sequence[ResultRow]) -> list[str]:
    """Draw the routed networks of a comparison, if any, into `out`; return a summary.

    flops.png shows PSNR by FLOPs of several networks (ClassPruning, Fig. 1), shares.png the branch
    shares during training (Fig. 5).
    """
    routed = [row for row in rows if not row["error"] and is_routed([row])]
    if not routed:
        return []
    shares = {}
    for row in routed:
        shares[f"{row['network']} {row_label(row)}"] = read_branch_shares(out / row_run(row).folder)
    most = max(len(x["shares"]) for row in routed for x in row["scores"].values())
    names = [f"branch {index + 1}" for index in range(most)]
    drawn = []
    try:
        if len({row["network"] for row in routed}) > 1:
            draw_trade_off(out / "flops.png", flops_axes(rows), "base networks, and routed ones")
            drawn.append("flops.png")
        if all(shares.values()):
            draw_branch_shares(out / "shares.png", shares, names)
            drawn.append("shares.png")
    except UsageError as problem:
        return [f"no pictures: {problem}"]
    return [f"{out}: {', '.join(drawn)}"] if drawn else []


def flops_axes(rows: Sequence[ResultRow]) -> list[CostAxis]:
    """Return PSNR by the mean FLOPs of an image, for every test set."""
    done = [row for row in rows if not row["error"]]

    def point(row: ResultRow, name: str) -> tuple[float, float]:
        score = row["scores"][name]
        return mean_flops(row, score) / 1e9, score["psnr"]

    axes = []
    for name in set_names(done):
        scored = [row for row in done if name in row["scores"]]
        static = {x["network"]: point(x, name) for x in scored if x["method"] == DENSE_METHOD}
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in scored:
            if "mean_flops" in row["scores"][name]:
                curves.setdefault(row_label(row), []).append(point(row, name))
        curves = {label: sorted(points) for label, points in curves.items()}
        axes.append(CostAxis(f"GFLOPs of a 256x256 image, {name}", static, curves))
    return axes
