"""Reports of a comparison: one page for every network, beside its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from thinlens.api import load_checkpoint
from thinlens.checkpoints.format import Checkpoint
from thinlens.engine.version import version_line
from thinlens.experiments.network_report import curve_panels, protocol_sentence
from thinlens.experiments.networks import HD_SIZE, runnable_shape
from thinlens.experiments.plan import DENSE_METHOD, ComparisonPlan, Run
from thinlens.experiments.report_pictures import compared_image
from thinlens.report.contents import ReportContents, ReportImage, ReportNetwork, report_layers
from thinlens.report.interactive import write_interactive
from thinlens.sparsity.summary import summarize
from thinlens.tasks import make_task
from thinlens.tasks.folders import open_pairs
from thinlens.tasks.task import Task

COMPARED_IMAGES = 2
"""Images of every test set that a page shows."""


def write_comparison_pages(
    plan: ComparisonPlan, rows: Mapping[Run, Mapping[str, Any]], out: Path, machine: str
) -> list[str]:
    """Write report.html, or report-NETWORK.html for each of several, into `out`; return a summary.

    `rows` are those of the comparison, `machine` is what was timed, and where. Networks of which no
    run is finished have no page.
    """
    pages = []
    for network in plan.networks:
        done = {run: row for run, row in rows.items() if run.network == network}
        done = {run: row for run, row in done.items() if not row["error"]}
        if len(done) < 2 or Run(network, DENSE_METHOD) not in done:
            continue
        folder = Run(network, DENSE_METHOD).folder.parent.name
        name = f"report-{folder}.html" if len(plan.networks) > 1 else "report.html"
        write_interactive(out / name, _contents(plan, done, out, machine))
        pages.append(f"{out / name}: the comparison as a page")
    return pages


def _contents(
    plan: ComparisonPlan, rows: Mapping[Run, Mapping[str, Any]], out: Path, machine: str
) -> ReportContents:
    names = {run: _name(run, rows) for run in rows}
    networks = [_network(names[run], run, row) for run, row in rows.items()]
    contents = ReportContents(networks)
    shown = [x.name for x in (contents.dense, contents.featured) if x]
    folders = {names[run]: run.source(out) for run in rows}
    checkpoints = {name: load_checkpoint(folders[name]) for name in shown}
    network = next(iter(rows)).network
    dense = checkpoints[shown[0]]
    task = make_task(**{**dense.task, **plan.task, **plan.evaluation_options})
    images: list[ReportImage] = []
    if len(shown) > 1:
        modules = {name: checkpoints[name].module for name in shown}
        for test, folder in plan.tests.items():
            for index in range(min(COMPARED_IMAGES, len(open_pairs(Path(folder), task)))):
                images.append(compared_image(task, test, Path(folder), index, modules))
    records = {name: checkpoints[name].provenance for name in shown}
    networks = [_with_layers(x, checkpoints.get(x.name), task) for x in networks]
    origin = {
        "protocol": protocol_sentence(task.protocol),
        "versions": version_line(),
        "seeds": ", ".join(map(str, plan.seeds)),
    }
    return ReportContents(networks, machine, network, images, curve_panels(records), origin=origin)


def _name(run: Run, rows: Mapping[Run, Any]) -> str:
    """Return the method and the budget, with what else distinguishes it from the others."""
    if run.method == DENSE_METHOD:
        return DENSE_METHOD
    words = [run.label, run.budget]
    for key, text in (("m", f"M = {run.m}"), ("seed", f"seed {run.seed}")):
        if len({getattr(x, key) for x in rows if x.method == run.method}) > 1:
            words.append(text)
    return " ".join(words)


def _network(name: str, run: Run, row: Mapping[str, Any]) -> ReportNetwork:
    scores = {test: score for test, score in row["scores"].items() if score["psnr"] is not None}
    dense = run.method == DENSE_METHOD
    return ReportNetwork(
        name,
        dense,
        row["bytes"],
        row["macs"],
        row["params"],
        row.get("ms"),
        None if dense else row["seconds"],
        {test: score["psnr"] for test, score in scores.items()},
        {test: score["ssim"] for test, score in scores.items()},
    )


def _with_layers(
    network: ReportNetwork, checkpoint: Checkpoint | None, task: Task
) -> ReportNetwork:
    """Add what each layer keeps, of a network that is shown."""
    if checkpoint is None or not checkpoint.patterns:
        return network
    shape = runnable_shape(checkpoint.module, task, HD_SIZE)
    summary = summarize(checkpoint.module, checkpoint.patterns, shape)
    return replace(network, layers=report_layers(summary))
