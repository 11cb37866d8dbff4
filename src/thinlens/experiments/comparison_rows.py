"""How do the cells of a comparison become rows of a table, and pictures?"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.experiments.comparison import DENSE, Cell
from thinlens.report.branches import read_shares, shares_picture
from thinlens.report.tables import Table, count, giga
from thinlens.report.trade_off import Axis, trade_off_picture
from thinlens.sparsity.summary import BUDGET_BASE

Row = Mapping[str, Any]
"""A cell, what is known of it, and its scores by test set."""

COLUMNS = ("network", "method", "preset", "budget", "m", "seed")
NUMBERS = ("budget_base", "achieved", "macs", "paper_gmacs", "params", "bytes", "ms", "seconds")

METRICS = ("macs", "params")
PARTS = {"channels": "by channels", "weights": "by weights", "left": "left"}
"""What some methods tell beside: who removed what, of multiply-adds and of parameters."""


def as_csv(rows: Sequence[Row]) -> str:
    """Write every number in full, a line a cell, and one for each other router."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    tells, levels, routes = _tells(rows), _levels(rows), _routes(rows)
    scores = [(name, key) for name in _sets(rows) for key in ("psnr", "ssim")]
    at = [(name, sigma) for name in _sets(rows) for sigma in levels]
    parts = [(metric, part) for metric in METRICS for part in PARTS if tells]
    named = tells or routes
    head = [*COLUMNS, *NUMBERS, "error"]
    head += [f"{name}_{key}" for name, key in scores]
    head += [f"{name}_psnr_sigma{sigma:g}" for name, sigma in at]
    head += [f"{name}_flops" for name in _sets(rows) if routes]
    head += [f"{metric}_{part}" for metric, part in parts] + ["variant"] * named
    head += ["router"] * routes
    writer.writerow(head)
    for row in _by_router(rows):
        figures = {name: row.get("scores", {}).get(name, {}) for name in _sets(rows)}
        line = [row.get(key) for key in (*COLUMNS, *NUMBERS, "error")]
        line += [figures[name].get(key) for name, key in scores]
        line += [_at(figures[name], sigma).get("psnr") for name, sigma in at]
        line += [_flops(row, figures[name]) for name in figures if routes]
        line += [(row.get("parts") or {}).get(metric, {}).get(part) for metric, part in parts]
        writer.writerow([*line, *[row.get("variant")] * named, *[row.get("router")] * routes])
    return text.getvalue()


def as_table(rows: Sequence[Row]) -> Table:
    """Lay the rows out as the papers do: GMACs, parameters, PSNR / SSIM per test set.

    At several noise levels the PSNR at each is told first; where a network routes, the FLOPs that
    the images of each set cost on average. Every router has a line.
    """
    sets, tells, levels, routes = _sets(rows), _tells(rows), _levels(rows), _routes(rows)
    timed = any("ms" in row for row in rows)

    def of_set(row: Row, name: str) -> list[str]:
        score = row["scores"].get(name)
        if not score:
            return [""] * (len(levels) + 1 + routes)
        at = [_at(score, sigma).get("psnr") for sigma in levels]
        cost = f"{_flops(row, score) / 1e9:.2f}" if routes else ""
        means = f"{score['psnr']:.2f} / {score['ssim']:.4f}"
        return [*("" if x is None else f"{x:.2f}" for x in at), means, *[cost] * routes]

    def line(row: Row) -> tuple[str, ...]:
        budget = "" if row["method"] == DENSE else row["budget"]
        head = (row["network"], _label(row), budget, str(row["m"] or ""), str(row["seed"]))
        if row["error"]:
            blank = 4 + timed + len(PARTS) * tells + len(sets) * (len(levels) + 1 + routes)
            return (*head, *[""] * blank, row["error"])
        whole = row["budget_base"] not in (None, BUDGET_BASE)
        kept = f"{row['achieved']:.2%}" + (f" of all {row['budget_base']}" if whole else "")
        return (
            *(*head, kept, giga(row["macs"]), f"{row['paper_gmacs']:.2f}"),
            *(count(row["params"]), *[f"{row['ms']:.1f}" if "ms" in row else ""] * timed),
            *(_parts(row) if tells else ()),
            *(text for name in sets for text in of_set(row, name)),
            "",
        )

    head = ("network", "method", "budget", "M", "seed", "kept", "GMACs", "paper's", "parameters")
    told = ["ms"] * timed
    told += [f"{part} (macs / params)" for part in PARTS.values()] if tells else []
    for name in sets:
        told += [*(f"{name}, sigma {sigma:g}" for sigma in levels), name]
        told += [f"{name}, GFLOPs"] * routes
    return Table((*head, *told, "note"), [line(row) for row in _by_router(rows)])


def pictures(out: Path, rows: Sequence[Row]) -> list[str]:
    """Draw networks that route into `out`, if there are any, and say what was drawn.

    flops.png is PSNR by FLOPs of several networks as ClassPruning's Fig. 1, shares.png the course
    of training as its Fig. 5.
    """
    routed = [row for row in rows if not row["error"] and _routes([row])]
    if not routed:
        return []
    courses = {}
    for row in routed:
        courses[f"{row['network']} {_label(row)}"] = read_shares(out / _cell(row).folder)
    most = max(len(x["shares"]) for row in routed for x in row["scores"].values())
    names = [f"branch {index + 1}" for index in range(most)]
    drawn = []
    try:
        if len({row["network"] for row in routed}) > 1:
            trade_off_picture(out / "flops.png", _axes(rows), "base networks, and routed ones")
            drawn.append("flops.png")
        if all(courses.values()):
            shares_picture(out / "shares.png", courses, names)
            drawn.append("shares.png")
    except UsageError as missing:
        return [f"no pictures: {missing}"]
    return [f"{out}: {', '.join(drawn)}"] if drawn else []


def _axes(rows: Sequence[Row]) -> list[Axis]:
    """Set every test's PSNR against the FLOPs of an image."""
    done = [row for row in rows if not row["error"]]

    def point(row: Row, name: str) -> tuple[float, float]:
        score = row["scores"][name]
        return _flops(row, score) / 1e9, score["psnr"]

    axes = []
    for name in _sets(done):
        seen = [row for row in done if name in row["scores"]]
        static = {x["network"]: point(x, name) for x in seen if x["method"] == DENSE}
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in seen:
            if "mean_flops" in row["scores"][name]:
                curves.setdefault(_label(row), []).append(point(row, name))
        curves = {label: sorted(points) for label, points in curves.items()}
        axes.append(Axis(f"GFLOPs of a 256x256 image, {name}", static, curves))
    return axes


def _by_router(rows: Sequence[Row]) -> list[Row]:
    """Put a row for each router beside the classifier below every row of a network that routes."""
    told: list[Row] = []
    for row in rows:
        told.append(row)
        scores = row.get("scores", {})
        for router in {x: None for score in scores.values() for x in score.get("routers", {})}:
            others = {name: score["routers"][router] for name, score in scores.items()}
            told.append({**row, "scores": others, "router": router})
    return told


def _label(row: Row) -> str:
    return _cell(row).label + (f", {row['router']} router" if row.get("router") else "")


def _cell(row: Row) -> Cell:
    return Cell(**{key: row[key] for key in Cell.__dataclass_fields__})


def _sets(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.get("scores", {})))


def _levels(rows: Sequence[Row]) -> list[float]:
    """Return the noise levels at which some set was judged."""
    scores = [score for row in rows for score in row.get("scores", {}).values()]
    return sorted({at["sigma"] for score in scores for at in score.get("per_sigma", ())})


def _at(score: Mapping[str, Any], sigma: float) -> Mapping[str, Any]:
    return next((at for at in score.get("per_sigma", ()) if at["sigma"] == sigma), {})


def _routes(rows: Sequence[Row]) -> bool:
    """Tell whether some network routes."""
    return any("mean_flops" in x for row in rows for x in row.get("scores", {}).values())


def _flops(row: Row, score: Mapping[str, Any]) -> Any:
    """Return what an image of a set costs on average; a network that does not route, always."""
    return score.get("mean_flops", row.get("flops"))


def _tells(rows: Sequence[Row]) -> bool:
    return any(row.get("parts") for row in rows)


def _parts(row: Row) -> list[str]:
    """Write who removed what, of multiply-adds / of parameters; empty where no one says."""
    told = row.get("parts")
    texts = (
        " / ".join(f"{told[metric][part]:.2%}" for metric in METRICS) if told else ""
        for part in PARTS
    )
    return list(texts)
