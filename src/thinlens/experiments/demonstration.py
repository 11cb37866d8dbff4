"""The demo: thin networks beside dense ones, one pruned meanwhile, others after it.

It is a list of stages. The report is written after each, so that it is valid whenever the demo is
stopped.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from thinlens.api import load_checkpoint
from thinlens.checkpoints.format import Checkpoint
from thinlens.experiments.demo_networks import (
    LIVE,
    VARIANTS,
    DemoRow,
    Variant,
    by_cost,
    measure_latency,
    pruned_row,
    unpruned_rows,
)
from thinlens.experiments.demo_report import DemoMeasurements, write_report
from thinlens.experiments.demo_shipped import ShippedRow, run_shipped
from thinlens.experiments.photographs import ImageSources, benchmark_sources, skimage_sources
from thinlens.experiments.pictures import picture_sources, read_pictures
from thinlens.progress import Progress, no_progress, progress_bar
from thinlens.report.tables import Table
from thinlens.restoration.folder import restore_folder
from thinlens.tasks import make_task
from thinlens.tasks.task import Task

log = logging.getLogger(__name__)

DEMO_NETWORK = "rfdn-x4"
"""The shipped network that the demo prunes."""

SHIPPED_SECONDS, LIVE_SECONDS, VARIANTS_SECONDS = 20, 75, 60
"""Seconds of the stages on two cores, about."""


StageFunction = Callable[[DemoMeasurements, Progress], DemoMeasurements]


@dataclass(frozen=True)
class DemoResult:
    """The results of the demo."""

    report: Path
    """The HTML page, beside table.md, sheet.png, the checkpoints and the restored images."""
    restored: int
    """Images that the network which was pruned first restored."""
    rows: tuple[DemoRow, ...]
    table: Table
    images: str
    """A sentence that names the calibration and test images."""
    published: tuple[ShippedRow, ...]
    """Shipped networks, dense and thin, on a few pictures."""
    published_table: Table


@dataclass(frozen=True)
class Stage:
    """A stage of the demo: one line says what comes, and how long it takes."""

    what: str
    seconds: int
    """On two cores, about."""
    run: StageFunction
    """Returns the measurements with those of the stage."""


def demo(
    out: str | Path,
    data: str | Path | None = None,
    *,
    images: Sequence[str | Path] = (),
    network: str = DEMO_NETWORK,
    progress: bool = False,
    show: Callable[[Table], object] = lambda table: None,
) -> DemoResult:
    """Compare shipped thin networks, prune `network` by several methods, and write a report.

    `data` is the folder of the test sets, by default $THINLENS_DATA; without it, photographs of
    scikit-image are used. With `images`, files of any format that `restore` reads, these pictures
    are compared, and one network is pruned. `show` is called with the table of every stage;
    `progress` shows bars on a terminal's stderr. The report is valid after every stage.
    """
    out = Path(out)
    dense = load_checkpoint(network)
    task = make_task(**dense.task)
    pictures = read_pictures([Path(path) for path in images])
    sources = _sources(task, data, out)
    if pictures:
        sources = picture_sources(task, pictures, sources, out / "pictures")
    command = shlex.join(["thinlens", "demo", "--out", out.name, *_image_flags(images)])
    name = Path(network).name
    stages = [
        Stage("shipped thin networks beside their dense ones", SHIPPED_SECONDS, _shipped(pictures)),
        *_pruning_stages(dense, name, task, sources, out)[: 1 if pictures else None],
    ]
    measured, table = DemoMeasurements(), Table((), ())
    for number, stage in enumerate(stages, start=1):
        log.info("%d of %d, about %d s: %s", number, len(stages), stage.seconds, stage.what)
        with progress_bar(stage.what) if progress else nullcontext(no_progress) as report:
            measured = stage.run(measured, report)
            table = write_report(out, task, measured, sources, command)
        show(table)
        log.info("the report so far: %s", out / "report.html")
    return DemoResult(
        out / "report.html",
        measured.restored,
        tuple(measured.rows),
        table,
        sources.described,
        tuple(measured.shipped.rows),
        measured.shipped.table,
    )


def _sources(task: Task, data: str | Path | None, out: Path) -> ImageSources:
    folder = data or os.environ.get("THINLENS_DATA")
    if folder:
        return benchmark_sources(task, Path(folder))
    return skimage_sources(task, out / "photographs")


def _image_flags(images: Sequence[str | Path]) -> list[str]:
    return ["--image", *(Path(path).name for path in images)] if images else []


def _shipped(pictures: Mapping[str, Tensor]) -> StageFunction:
    def run(measured: DemoMeasurements, report: Progress) -> DemoMeasurements:
        return replace(measured, shipped=run_shipped(pictures, report))

    return run


def _pruning_stages(
    dense: Checkpoint, name: str, task: Task, sources: ImageSources, out: Path
) -> list[Stage]:
    """Return the stages that prune `dense`: the first network, then the others."""

    def stage(variants: Sequence[Variant], seconds: int) -> Stage:
        names = ", ".join(f"{method} {budget}" for method, budget in variants)

        def run(measured: DemoMeasurements, report: Progress) -> DemoMeasurements:
            rows = [*measured.rows] or unpruned_rows(dense, task, sources.tests, report)
            rows += [
                pruned_row(dense, task, sources, out / "checkpoints", variant, report)
                for variant in variants
            ]
            restored = measured.restored or _restore(rows[-1], task, sources, out)
            rows, torch_ms = measure_latency(by_cost(rows), dense.module, task.channels)
            return replace(measured, rows=rows, torch_ms=torch_ms, restored=restored)

        return Stage(f"pruning {name}: {names}", seconds, run)

    return [stage((LIVE,), LIVE_SECONDS), stage(VARIANTS, VARIANTS_SECONDS)]


def _restore(row: DemoRow, task: Task, sources: ImageSources, out: Path) -> int:
    """Restore the inputs of the first test set to files; return how many there are."""
    inputs = next(iter(sources.tests.values())) / "LR"
    restored = restore_folder(row.run, task, inputs, out / "restored")
    return restored.done + restored.skipped
