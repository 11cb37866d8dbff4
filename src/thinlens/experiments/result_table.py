"""Result tables of a comparison: CSV with every number in full, and a table as in the papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from thinlens.experiments.plan import DENSE_METHOD, Run
from thinlens.report.tables import Table, format_giga, format_integer
from thinlens.sparsity.summary import BUDGET_BASE

ResultRow = Mapping[str, Any]
"""A run, its costs, and its scores by test set."""

COLUMNS = ("network", "method", "preset", "budget", "m", "seed")
NUMBERS = ("budget_base", "achieved", "macs", "paper_gmacs", "params", "bytes", "ms", "seconds")
"""Columns of the CSV file before the scores."""

COST_METRICS = ("macs", "params")
REMOVED_BY = {"channels": "by channels", "weights": "by weights", "left": "left"}
"""The fractions of multiply-adds and parameters that FMP records: removed as channels, removed as
weights, remaining."""


def as_csv(rows: Sequence[ResultRow]) -> str:
    """Return CSV with every number in full: a line for each run and for each further router."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    removed, levels, routed = _has_removed(rows), evaluated_noise_levels(rows), is_routed(rows)
    keys = ("psnr", "ssim", *["lpips"] * has_lpips(rows))
    scores = [(name, key) for name in set_names(rows) for key in keys]
    at = [(name, sigma) for name in set_names(rows) for sigma in levels]
    fractions = [(metric, key) for metric in COST_METRICS for key in REMOVED_BY if removed]
    named = removed or routed
    head = [*COLUMNS, *NUMBERS, "error"]
    head += [f"{name}_{key}" for name, key in scores]
    head += [f"{name}_psnr_sigma{sigma:g}" for name, sigma in at]
    head += [f"{name}_flops" for name in set_names(rows) if routed]
    head += [f"{metric}_{key}" for metric, key in fractions] + ["variant"] * named
    head += ["router"] * routed
    writer.writerow(head)
    for row in _by_router(rows):
        figures = {name: row.get("scores", {}).get(name, {}) for name in set_names(rows)}
        line = [row.get(key) for key in (*COLUMNS, *NUMBERS, "error")]
        line += [figures[name].get(key) for name, key in scores]
        line += [_at(figures[name], sigma).get("psnr") for name, sigma in at]
        line += [mean_flops(row, figures[name]) for name in figures if routed]
        line += [(row.get("parts") or {}).get(metric, {}).get(key) for metric, key in fractions]
        writer.writerow([*line, *[row.get("variant")] * named, *[row.get("router")] * routed])
    return text.getvalue()


def as_table(rows: Sequence[ResultRow]) -> Table:
    """Return the table of the papers: GMACs, parameters, PSNR / SSIM (/ LPIPS) by test set.

    With several noise levels the PSNR at each precedes the mean; with routed networks the mean
    FLOPs of an image follow. Every router has a line.
    """
    sets, levels = set_names(rows), evaluated_noise_levels(rows)
    removed, routed = _has_removed(rows), is_routed(rows)
    timed = any("ms" in row for row in rows)

    def of_set(row: ResultRow, name: str) -> list[str]:
        score = row["scores"].get(name)
        if not score:
            return [""] * (len(levels) + 1 + routed)
        at = [_at(score, sigma).get("psnr") for sigma in levels]
        cost = f"{mean_flops(row, score) / 1e9:.2f}" if routed else ""
        mean = f"{score['psnr']:.2f} / {score['ssim']:.4f}"
        mean += f" / {score['lpips']:.4f}" if "lpips" in score else ""
        return [*("" if x is None else f"{x:.2f}" for x in at), mean, *[cost] * routed]

    def line(row: ResultRow) -> tuple[str, ...]:
        budget = "" if row["method"] == DENSE_METHOD else row["budget"]
        head = (row["network"], row_label(row), budget, str(row["m"] or ""), str(row["seed"]))
        if row["error"]:
            blank = 4 + timed + len(REMOVED_BY) * removed + len(sets) * (len(levels) + 1 + routed)
            return (*head, *[""] * blank, row["error"])
        whole = row["budget_base"] not in (None, BUDGET_BASE)
        kept = f"{row['achieved']:.2%}" + (f" of all {row['budget_base']}" if whole else "")
        ms = [f"{row['ms']:.1f}" if "ms" in row else ""] * timed
        return (
            *(*head, kept, format_giga(row["macs"]), f"{row['paper_gmacs']:.2f}"),
            *(format_integer(row["params"]), *ms),
            *(_removed(row) if removed else ()),
            *(text for name in sets for text in of_set(row, name)),
            "",
        )

    head = ("network", "method", "budget", "M", "seed", "kept", "GMACs", "paper's", "parameters")
    columns = ["ms"] * timed
    columns += [f"{label} (macs / params)" for label in REMOVED_BY.values()] if removed else []
    for name in sets:
        columns += [*(f"{name}, sigma {sigma:g}" for sigma in levels), name]
        columns += [f"{name}, GFLOPs"] * routed
    return Table((*head, *columns, "note"), [line(row) for row in _by_router(rows)])


def has_lpips(rows: Sequence[ResultRow]) -> bool:
    """Return whether a network was evaluated by LPIPS."""
    return any("lpips" in score for row in rows for score in row.get("scores", {}).values())


def _by_router(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Insert a row for each router beside the classifier below every row of a routed network."""
    expanded: list[ResultRow] = []
    for row in rows:
        expanded.append(row)
        scores = row.get("scores", {})
        for router in {x: None for score in scores.values() for x in score.get("routers", {})}:
            others = {name: score["routers"][router] for name, score in scores.items()}
            expanded.append({**row, "scores": others, "router": router})
    return expanded


def row_label(row: ResultRow) -> str:
    """Return the method of a row, and its router if that is not the classifier."""
    return row_run(row).label + (f", {row['router']} router" if row.get("router") else "")


def row_run(row: ResultRow) -> Run:
    """Return the run of a row."""
    return Run(**{key: row[key] for key in Run.__dataclass_fields__})


def set_names(rows: Sequence[ResultRow]) -> list[str]:
    """Return the names of all test sets of the rows."""
    return list(dict.fromkeys(name for row in rows for name in row.get("scores", {})))


def evaluated_noise_levels(rows: Sequence[ResultRow]) -> list[float]:
    """Return the noise levels at which some test set was evaluated."""
    scores = [score for row in rows for score in row.get("scores", {}).values()]
    return sorted({at["sigma"] for score in scores for at in score.get("per_sigma", ())})


def _at(score: Mapping[str, Any], sigma: float) -> Mapping[str, Any]:
    return next((at for at in score.get("per_sigma", ()) if at["sigma"] == sigma), {})


def is_routed(rows: Sequence[ResultRow]) -> bool:
    """Return whether some row is of a routed network."""
    return any("mean_flops" in x for row in rows for x in row.get("scores", {}).values())


def mean_flops(row: ResultRow, score: Mapping[str, Any]) -> Any:
    """Return the mean FLOPs of a test set's images; constant for a network without routing."""
    return score.get("mean_flops", row.get("flops"))


def _has_removed(rows: Sequence[ResultRow]) -> bool:
    return any(row.get("parts") for row in rows)


def _removed(row: ResultRow) -> list[str]:
    """Format the fractions of `REMOVED_BY`, multiply-adds / parameters; empty without a record."""
    record = row.get("parts")
    texts = (
        " / ".join(f"{record[metric][key]:.2%}" for metric in COST_METRICS) if record else ""
        for key in REMOVED_BY
    )
    return list(texts)
