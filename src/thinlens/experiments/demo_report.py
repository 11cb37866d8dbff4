"""The report of the demo: a table, figures and an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thinlens.experiments.demo_networks import SEARCH, TIMED_ROUNDS, TIMED_SIZE, DemoRow
from thinlens.experiments.demo_published import DENSE, THIN, PublishedResult
from thinlens.experiments.photographs import ImageSources
from thinlens.experiments.restorations import draw_restorations
from thinlens.files import atomic_write
from thinlens.report.layer_plots import draw_layers
from thinlens.report.page import Picture, Section, write_page
from thinlens.report.search_plots import draw_searches, rank_correlation
from thinlens.report.tables import Table, format_giga, format_integer
from thinlens.sparsity.summary import CostSummary
from thinlens.tasks.folders import open_pairs
from thinlens.tasks.task import Task

MAX_COMPARED = 3
"""Images of a test set that are shown side by side."""


def write_report(
    out: Path,
    task: Task,
    rows: Sequence[DemoRow],
    sources: ImageSources,
    torch_ms: float | None,
    published: PublishedResult,
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
    layers = [_layers(out, row, row.costs) for row in searches if row.costs]
    by = task.protocol
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
        Section("How the searches went", pictures=[_histories(out, searches)]),
        Section(
            "A published network, shipped thin",
            (
                f"{THIN} keeps a quarter of the multiply-adds of {DENSE} (Real-ESRGAN). Seconds "
                "are medians of turns, as `thinlens restore` runs both; PSNR is to the dense "
                "network's result (RGB, 8 bit).",
            ),
            (published.table,),
            published.pictures,
        ),
    ]
    write_page(out / "report.html", "thinlens: a thin network that still sees", sections)
    return table


def _speed(torch_ms: float | None) -> str:
    if torch_ms is None:
        return "The native engine was not built, so nothing was timed."
    return (
        f"Milliseconds are medians of {TIMED_ROUNDS} runs of the native engine on an input of "
        f"{TIMED_SIZE[1]}x{TIMED_SIZE[0]}, in turns with torch, which took {torch_ms:.1f} for the "
        "dense network."
    )


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


def _comparisons(
    out: Path, task: Task, rows: Sequence[DemoRow], test: tuple[str, Path]
) -> list[Picture]:
    name, folder = test
    pictures = []
    for index, pair in enumerate(open_pairs(folder, task)[:MAX_COMPARED]):
        path = out / "pictures" / f"{name}-{Path(pair.name).name}.png"
        runs = [(f"{row.method} {row.budget}".strip(), row.run) for row in rows]
        draw_restorations(path, task, pair, index, runs)
        pictures.append(Picture(path, f"{name}, {pair.name}: PSNR of the whole image"))
    return pictures


def _layers(out: Path, row: DemoRow, price: CostSummary) -> Picture:
    label = f"{row.method} {row.budget}"
    path = out / "pictures" / f"layers-{label.replace(' ', '-').replace('/', '-of-')}.png"
    draw_layers(path, price, f"{label}: what each layer costs, and the N that it keeps")
    return Picture(path, f"{label}: layers by dense multiply-adds; red: before a pixel shuffle")


def _correlations(searches: Sequence[DemoRow]) -> list[str]:
    """Return a sentence on every search: N's correlation with layer cost (SLS, section 4.5)."""
    correlations = ((row, rank_correlation(row.costs)) for row in searches if row.costs)
    return [
        f"{row.method} {row.budget}: Spearman's correlation of N and dense multiply-adds "
        f"{correlation:+.2f}."
        for row, correlation in correlations
        if correlation is not None
    ]


def _histories(out: Path, searches: Sequence[DemoRow]) -> Picture:
    path = out / "pictures" / "searches.png"
    runs = {f"{row.method} {row.budget}": row.record for row in searches}
    draw_searches(path, runs, "the searches of the demo")
    return Picture(path, "Task loss, fraction kept, lambda and mask flips by step")
