"""The demo: prune a network by three methods, restore photographs, write a report."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from thinlens.api import load_checkpoint
from thinlens.experiments.demo_networks import DemoRow, measure_latency, prune_variants
from thinlens.experiments.demo_published import PublishedRow, run_published
from thinlens.experiments.demo_report import write_report
from thinlens.experiments.photographs import benchmark_sources, skimage_sources
from thinlens.progress import no_progress, progress_bar
from thinlens.report.tables import Table
from thinlens.restoration.folder import restore_folder
from thinlens.tasks import make_task

DEMO_NETWORK = "rfdn-x4"
"""The shipped network that the demo prunes."""


@dataclass(frozen=True)
class DemoResult:
    """The results of the demo."""

    report: Path
    """The HTML page, beside table.md, the checkpoints and the restored images."""
    restored: int
    """Images that the last network restored."""
    rows: tuple[DemoRow, ...]
    table: Table
    images: str
    """A sentence that names the calibration and test images."""
    published: tuple[PublishedRow, ...]
    """A published network, dense and pruned, on a drawing and a photograph."""
    published_table: Table


def demo(
    out: str | Path,
    data: str | Path | None = None,
    *,
    network: str = DEMO_NETWORK,
    progress: bool = False,
) -> DemoResult:
    """Prune `network` by three methods, restore photographs, and write `out`/report.html.

    `data` is the folder of the test sets, by default $THINLENS_DATA; without it, photographs of
    scikit-image are used. `progress` shows a bar on a terminal's stderr.
    """
    out = Path(out)
    dense = load_checkpoint(network)
    task = make_task(**dense.task)
    folder = data or os.environ.get("THINLENS_DATA")
    if folder:
        sources = benchmark_sources(task, Path(folder))
    else:
        sources = skimage_sources(task, out / "photographs")
    with progress_bar("demo") if progress else nullcontext(no_progress) as report:
        rows = prune_variants(dense, task, sources, out / "checkpoints", report)
    rows, torch_ms = measure_latency(rows, task.channels)
    inputs = next(iter(sources.tests.values())) / "LR"
    restored = restore_folder(rows[-1].run, task, inputs, out / "restored")
    published = run_published()
    table = write_report(out, task, rows, sources, torch_ms, published)
    count = restored.done + restored.skipped
    return DemoResult(
        out / "report.html",
        count,
        tuple(rows),
        table,
        sources.described,
        tuple(published.rows),
        published.table,
    )
