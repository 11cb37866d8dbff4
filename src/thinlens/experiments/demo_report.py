"""How does the demo show what it found: a table, pictures, a page?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thinlens.experiments.demo_rows import SEARCH, TIMED, TIMED_ROUNDS, Row
from thinlens.experiments.photographs import Sources
from thinlens.experiments.restored_pictures import draw_restored
from thinlens.files import atomic_write
from thinlens.report.page import Picture, Section, write_page
from thinlens.report.plots import layers_picture
from thinlens.report.search import course_picture, rank_correlation
from thinlens.report.tables import Table, count, giga
from thinlens.sparsity.summary import Price
from thinlens.tasks.folders import open_pairs
from thinlens.tasks.task import Task

MOST_COMPARED = 3
"""Images of a test set that are shown side by side."""


def write_report(
    out: Path, task: Task, rows: Sequence[Row], sources: Sources, torch_ms: float | None
) -> Table:
    """Write report.html, table.md and the pictures into `out`; return the table."""
    table = _table(rows, sources)
    with atomic_write(out / "table.md") as file:
        file.write(table.markdown().encode())
    comparisons = [
        picture
        for name, folder in sources.tests.items()
        for picture in _comparisons(out, task, rows, (name, folder))
    ]
    searches = [row for row in rows if row.record.get("history")]
    layers = [_layers(out, row, row.price) for row in searches if row.price]
    by = task.judgement
    protocol = (
        f"PSNR in dB and SSIM of {by.channel}, a border of {by.crop} pixels cut, rounded to "
        f"{by.rounding}, range 0..{by.range}; means over images. GMACs for a 1280x720 output, "
        "biases and activations included as SLS counts. Bytes are those of the packed file. "
        f"Seconds are what pruning took; sls searched for {SEARCH.steps} steps of one crop, and "
        "nothing else was trained."
    )
    sections = [
        Section("What thinness cost", (sources.described, protocol, _speed(torch_ms)), (table,)),
        Section("Side by side", pictures=comparisons),
        Section("How many weights each layer keeps", _correlations(searches), pictures=layers),
        Section("How the searches went", pictures=[_courses(out, searches)]),
    ]
    write_page(out / "report.html", "thinlens: a thin network that still sees", sections)
    return table


def _speed(torch_ms: float | None) -> str:
    if torch_ms is None:
        return "The native engine was not built, so nothing was timed."
    return (
        f"Milliseconds are medians of {TIMED_ROUNDS} runs of the native engine on an input of "
        f"{TIMED[1]}x{TIMED[0]}, in turns with torch, which took {torch_ms:.1f} for the dense "
        "network."
    )


def _table(rows: Sequence[Row], sources: Sources) -> Table:
    sets = [(name, what) for name in sources.tests for what in ("PSNR", "SSIM")]
    columns = ("method", "kept", "GMACs", "parameters", "bytes", "seconds", "ms")
    return Table(
        (*columns, *(f"{name} {what}" for name, what in sets)),
        [(*_cells(row), *_scores(row)) for row in rows],
    )


def _cells(row: Row) -> tuple[str, ...]:
    if row.price is None:
        return (row.method, "-", "-", "-", "-", "-", "-")
    return (
        row.method,
        f"{row.price.budget:.2%}",
        giga(row.price.total.macs),
        count(row.price.total.params),
        "-" if row.bytes is None else count(row.bytes),
        "-" if row.seconds is None else f"{row.seconds:.1f}",
        "-" if row.ms is None else f"{row.ms:.1f}",
    )


def _scores(row: Row) -> list[str]:
    return [
        text for score in row.scores.values() for text in (f"{score.psnr:.2f}", f"{score.ssim:.4f}")
    ]


def _comparisons(
    out: Path, task: Task, rows: Sequence[Row], test: tuple[str, Path]
) -> list[Picture]:
    name, folder = test
    pictures = []
    for index, pair in enumerate(open_pairs(folder, task)[:MOST_COMPARED]):
        path = out / "pictures" / f"{name}-{Path(pair.name).name}.png"
        runs = [(f"{row.method} {row.budget}".strip(), row.run) for row in rows]
        draw_restored(path, task, pair, index, runs)
        pictures.append(Picture(path, f"{name}, {pair.name}: PSNR of the whole image"))
    return pictures


def _layers(out: Path, row: Row, price: Price) -> Picture:
    label = f"{row.method} {row.budget}"
    path = out / "pictures" / f"layers-{label.replace(' ', '-').replace('/', '-of-')}.png"
    layers_picture(path, price, f"{label}: what each layer costs, and the N that it keeps")
    return Picture(path, f"{label}: layers by dense multiply-adds; red: before a pixel shuffle")


def _correlations(searches: Sequence[Row]) -> list[str]:
    """Say of every search how N goes with what layers cost (SLS, section 4.5)."""
    found = ((row, rank_correlation(row.price)) for row in searches if row.price)
    return [
        f"{row.method} {row.budget}: Spearman's correlation of N and dense multiply-adds "
        f"{correlation:+.2f}."
        for row, correlation in found
        if correlation is not None
    ]


def _courses(out: Path, searches: Sequence[Row]) -> Picture:
    path = out / "pictures" / "searches.png"
    runs = {f"{row.method} {row.budget}": row.record for row in searches}
    course_picture(path, runs, "the searches of the demo")
    return Picture(path, "Task loss, part kept, lambda and mask flips by step")
