"""The report of the demo: a table, and a page of everything that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from thinlens.benchmark.installation import version_line
from thinlens.experiments.demo_networks import SEARCH, TIMED_ROUNDS, TIMED_SIZE, DemoRow
from thinlens.experiments.demo_published import PublishedResult
from thinlens.experiments.network_report import curve_panels, protocol_sentence, timing_sentence
from thinlens.experiments.photographs import ImageSources
from thinlens.experiments.report_pictures import report_images
from thinlens.files import atomic_write
from thinlens.report.contents import ReportContents, ReportNetwork, report_layers
from thinlens.report.interactive import write_interactive
from thinlens.report.search_plots import rank_correlation
from thinlens.report.tables import Table, format_giga, format_integer
from thinlens.tasks.task import Task

DEMO_IMAGES = 6
"""Test images that the page shows, those that lose most."""


def write_report(
    out: Path,
    task: Task,
    rows: Sequence[DemoRow],
    sources: ImageSources,
    torch_ms: float | None,
    published: PublishedResult,
) -> Table:
    """Write report.html and table.md into `out`; return the table."""
    table = _table(rows, sources)
    with atomic_write(out / "table.md") as file:
        file.write(table.markdown().encode())
    networks = [_network(row) for row in rows]
    dense = next(row for row in rows if row.method == "dense")
    shown = report_images(
        ReportContents(networks),
        {row.name: row.run for row in rows},
        task,
        sources.tests,
        {row.name: row.scores for row in rows},
        DEMO_IMAGES,
    )
    records = {row.name: row.record for row in rows}
    contents = ReportContents(
        networks,
        _speed(torch_ms),
        f"rfdn-x4 ({format_giga(dense.costs.total.macs)} GMACs)" if dense.costs else "rfdn-x4",
        [*shown, *published.images],
        curve_panels(records),
        [published.table],
        [sources.described, *_correlations(rows)],
        origin={
            "protocol": protocol_sentence(task.protocol),
            "pruning": f"sls searched for {SEARCH.steps} steps of one crop; nothing else was "
            "trained. Seconds are what pruning took.",
            "command": f"thinlens demo --out {out.name}",
            "versions": version_line(),
            "seed": "0",
        },
    )
    write_interactive(out / "report.html", contents)
    return table


def _network(row: DemoRow) -> ReportNetwork:
    total = row.costs.total if row.costs else None
    return ReportNetwork(
        row.name,
        row.method == "dense",
        row.bytes,
        total.macs if total else None,
        total.params if total else None,
        row.ms,
        row.seconds,
        {name: score.psnr for name, score in row.scores.items()},
        {name: score.ssim for name, score in row.scores.items()},
        report_layers(row.costs) if row.costs else (),
    )


def _speed(torch_ms: float | None) -> str:
    if torch_ms is None:
        return "The native engine was not built, so nothing was timed."
    size = f"on an input of {TIMED_SIZE[1]}x{TIMED_SIZE[0]}"
    sentence = timing_sentence(TIMED_ROUNDS, size, torch.get_num_threads())
    return f"{sentence} torch took {torch_ms:.1f} ms for the dense network."


def _table(rows: Sequence[DemoRow], sources: ImageSources) -> Table:
    sets = [(name, metric) for name in sources.tests for metric in ("PSNR", "SSIM")]
    columns = ("method", "kept", "GMACs", "parameters", "bytes", "seconds", "ms")
    return Table(
        (*columns, *(f"{name} {metric}" for name, metric in sets)),
        [(*_costs(row), *_scores(row)) for row in rows],
    )


def _costs(row: DemoRow) -> tuple[str, ...]:
    if row.costs is None:
        return (row.method, "-", "-", "-", "-", "-", "-")
    return (
        row.method,
        f"{row.costs.budget:.2%}",
        format_giga(row.costs.total.macs),
        format_integer(row.costs.total.params),
        "-" if row.bytes is None else format_integer(row.bytes),
        "-" if row.seconds is None else f"{row.seconds:.1f}",
        "-" if row.ms is None else f"{row.ms:.1f}",
    )


def _scores(row: DemoRow) -> list[str]:
    return [
        text for score in row.scores.values() for text in (f"{score.psnr:.2f}", f"{score.ssim:.4f}")
    ]


def _correlations(rows: Sequence[DemoRow]) -> list[str]:
    """Return a sentence on every search: N's correlation with layer cost (SLS, section 4.5)."""
    searches = [row for row in rows if row.record.get("history")]
    correlations = ((row, rank_correlation(row.costs)) for row in searches if row.costs)
    return [
        f"{row.name}: Spearman's correlation of N and dense multiply-adds {correlation:+.2f}."
        for row, correlation in correlations
        if correlation is not None
    ]
