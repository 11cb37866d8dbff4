"""The report of the demo: a table, a sheet of pictures, and a page of all that was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from thinlens.engine.native import fastest
from thinlens.engine.timings import cpu_name
from thinlens.engine.version import version_line
from thinlens.experiments.demo_networks import TIMED_ROUNDS, TIMED_SIZE, DemoRow
from thinlens.experiments.demo_shipped import NOTHING_SHIPPED, ShippedResult
from thinlens.experiments.network_report import protocol_sentence, timing_sentence
from thinlens.experiments.photographs import ImageSources
from thinlens.experiments.report_pictures import report_images
from thinlens.files import atomic_write
from thinlens.images.pixels import to_float
from thinlens.report.contents import ReportContents, ReportNetwork, report_layers
from thinlens.report.interactive import write_interactive
from thinlens.report.side_by_side import Panel, draw_side_by_side, most_detailed_square
from thinlens.report.tables import Table, format_giga, format_integer
from thinlens.restoration.tiled import restore_image
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.task import Task

DEMO_IMAGES = 6
"""Test images that the page shows, those that lose most."""

SHEET_SIDE = 192
"""Side in pixels of the square of an image that the sheet shows."""


@dataclass(frozen=True)
class DemoMeasurements:
    """What was measured so far."""

    shipped: ShippedResult = NOTHING_SHIPPED
    rows: Sequence[DemoRow] = ()
    """The dense network and thin ones of it; empty before the first is pruned."""
    torch_ms: float | None = None
    """Milliseconds of the dense network in torch."""
    restored: int = 0
    """Images that the network which was pruned first restored to files."""


def write_report(
    out: Path,
    task: Task,
    measured: DemoMeasurements,
    sources: ImageSources,
    command: str,
) -> Table:
    """Write report.html, table.md and sheet.png into `out`; return the last table.

    Each file changes whole or not at all, so that they are valid after every stage.
    """
    shipped, rows = measured.shipped, measured.rows
    table = _table(rows, sources) if rows else shipped.table
    tables = [table, shipped.table] if rows else [table]
    with atomic_write(out / "table.md") as file:
        file.write("\n".join(x.markdown() for x in tables).encode())
    if rows:
        _write_sheet(out / "sheet.png", task, rows, sources)
    contents = _contents(task, measured, sources, command)
    write_interactive(out / "report.html", contents)
    return table


def _contents(
    task: Task, measured: DemoMeasurements, sources: ImageSources, command: str
) -> ReportContents:
    shipped, rows = measured.shipped, measured.rows
    networks = [_network(row) for row in rows]
    dense = next((row for row in rows if row.method == "dense"), None)
    macs = f" ({format_giga(dense.costs.total.macs)} GMACs)" if dense and dense.costs else ""
    shown = report_images(
        ReportContents(networks),
        {row.name: row.run for row in rows},
        task,
        sources.tests,
        {row.name: row.scores for row in rows},
        DEMO_IMAGES,
    )
    return ReportContents(
        networks,
        _speed(measured.torch_ms) if rows else _machine(),
        f"rfdn-x4{macs}" if rows else "Shipped thin networks",
        [*shown, *shipped.images],
        tables=[shipped.table],
        paragraphs=[sources.described] if rows else [],
        figures=[] if rows else _shipped_figures(shipped),
        origin={
            "protocol": protocol_sentence(task.protocol),
            "pruning": "Nothing was trained. Seconds are what pruning took; least-squares measures "
            "once for all budgets how sensitive layers are, in the first network's seconds.",
            "command": command,
            "versions": version_line(),
            "seed": "0",
        },
    )


def _shipped_figures(shipped: ShippedResult) -> list[tuple[str, str]]:
    return [
        (
            f"{row.torch_seconds / row.thin_seconds:.1f} x faster",
            f"{row.network} thin: {row.thin_seconds:.2f} s, dense in torch "
            f"{row.torch_seconds:.2f} s ({row.image})",
        )
        for row in shipped.rows
    ]


def _write_sheet(path: Path, task: Task, rows: Sequence[DemoRow], sources: ImageSources) -> None:
    """Draw one test image as all networks restore it: the one that the dense network finds hardest.

    Shown is its most detailed square.
    """
    test, folder = next(iter(sources.tests.items()))
    dense = next(row for row in rows if row.method == "dense").scores[test].per_image
    hardest = min(range(len(dense)), key=lambda index: dense[index].psnr)
    pair = open_pairs(folder, task)[hardest]
    image, target = read_pair(pair, task, hardest, seed=0)
    side = min(SHEET_SIDE, *target.shape[-2:])
    top, left = most_detailed_square(to_float(target), side)
    square = (slice(None), slice(top, top + side), slice(left, left + side))
    panels = [Panel(f"original\n{Path(pair.name).stem}", to_float(target)[square])]
    for row in rows:
        decibels = f"{row.scores[test].per_image[hardest].psnr:.2f} dB"
        restored = restore_image(row.run, image).clamp(0, 1)
        panels.append(Panel(f"{row.name}\n{decibels}", restored[square]))
    draw_side_by_side(path, panels)


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


def _machine() -> str:
    threads = torch.get_num_threads()
    return f"Times on {cpu_name()}, {threads} threads, native engine ({fastest()})."


def _speed(torch_ms: float | None) -> str:
    if torch_ms is None:
        return "The native engine was not built, so nothing was timed."
    size = f"on an input of {TIMED_SIZE[1]}x{TIMED_SIZE[0]}"
    sentence = timing_sentence(TIMED_ROUNDS, size, torch.get_num_threads())
    return f"{sentence} torch took {torch_ms:.1f} ms for the dense network."


def demo_columns(tests: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of the demo's table, which README.md has too.

    >>> demo_columns(["Set5"])[-3:]
    ('seconds', 'ms', 'Set5 PSNR')
    """
    columns = ("method", "kept", "GMACs", "bytes", "seconds", "ms")
    return (*columns, *(f"{name} PSNR" for name in tests))


def _table(rows: Sequence[DemoRow], sources: ImageSources) -> Table:
    cells = [
        (*_costs(row), *(f"{score.psnr:.2f}" for score in row.scores.values())) for row in rows
    ]
    return Table(demo_columns(sources.tests), cells)


def _costs(row: DemoRow) -> tuple[str, ...]:
    if row.costs is None:
        return (row.method, "-", "-", "-", "-", "-")
    return (
        row.method,
        f"{100 * row.costs.budget:.3g} %",
        format_giga(row.costs.total.macs),
        "-" if row.bytes is None else format_integer(row.bytes),
        "-" if row.seconds is None else f"{row.seconds:.1f}",
        "-" if row.ms is None else f"{row.ms:.1f}",
    )
