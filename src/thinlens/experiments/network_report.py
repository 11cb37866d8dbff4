"""Report of a dense network and thin ones of it: evaluated, timed and shown side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from thinlens.adaptive.options import RoutingOptions
from thinlens.adaptive.router import TileRouter
from thinlens.benchmark.inputs import smooth_image
from thinlens.benchmark.interleaved import BenchCase, run_interleaved
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.kernel_report import kernel_report
from thinlens.engine.native import fastest, native
from thinlens.engine.timings import cpu_name
from thinlens.engine.version import version_line
from thinlens.errors import UsageError
from thinlens.experiments.bundle_report import bundle_row, report_router, routing_sentence
from thinlens.experiments.networks import HD_SIZE, runnable_shape
from thinlens.experiments.report_pictures import report_images
from thinlens.experiments.report_runs import NamedRun, ReportRuns, read_runs, report_tests
from thinlens.files import JsonLines
from thinlens.progress import Progress, no_progress, progress_bar
from thinlens.report.contents import CurvePanel, ReportContents, ReportNetwork, report_layers
from thinlens.report.interactive import write_interactive
from thinlens.report.search_plots import CURVES
from thinlens.restoration.evaluation import Evaluation, evaluate
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.tiled import restore_image
from thinlens.sparsity.summary import summarize
from thinlens.tasks import make_task
from thinlens.tasks.task import MetricProtocol, Task

REPORT_SIZE = (90, 160)
"""Height and width of the timed input."""

PAGE_ROUNDS = 7
"""Timed runs of each network, of which the median is reported."""

REPORT_IMAGES = 6
"""Images that a report shows, those that lose most."""


@dataclass(frozen=True)
class ReportOptions:
    """What a report measures and shows."""

    images: int = REPORT_IMAGES
    """Most images that are shown."""
    rounds: int = PAGE_ROUNDS
    """Timed runs of each network; 0 measures no times."""
    size: tuple[int, int] = REPORT_SIZE
    """Height and width of the timed input, in pixels."""
    threads: int = 2
    """Threads of the engine while networks are timed."""
    command: str = ""
    """The command that is named in the report."""
    routing: RoutingOptions | None = None
    """Of bundles."""


def report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    data: str | Path | None = None,
    options: ReportOptions | None = None,
    progress: bool = False,
) -> ReportContents:
    """Evaluate, time and compare the networks of `runs`, and write one HTML page to `out`.

    `runs` are checkpoint folders, shipped names, files of weights, bundles or folders with those
    below them: one dense network and thin ones of it. `data` is a folder of test images, by default
    scikit-image's photographs for super-resolution. Raises `UsageError` for a run that is not
    finished.

    >>> quick = ReportOptions(rounds=0, images=0)
    >>> names = ["dncnn-color-blind", "dncnn-color-blind-thin"]
    >>> contents = report(names, "report.html", data="photos", options=quick)
    >>> [network.dense for network in contents.networks]
    [True, False]
    """
    options = options or ReportOptions()
    loaded = read_runs(runs)
    with (
        TemporaryDirectory(prefix="thinlens-report-") as folder,
        progress_bar("report") if progress else nullcontext(no_progress) as show,
    ):
        task = make_task(**loaded.networks[0].checkpoint.task)
        tests = report_tests(task, data, Path(folder))
        contents = _contents(loaded, task, tests, options, show)
    write_interactive(Path(out), contents)
    return contents


def _contents(
    loaded: ReportRuns,
    task: Task,
    tests: Mapping[str, Path],
    options: ReportOptions,
    show: Progress,
) -> ReportContents:
    runs = loaded.networks
    routers = {x.name: report_router(x, options.routing, options.threads) for x in loaded.bundles}
    running: dict[str, Network | Restorer] = {run.name: run.checkpoint.module for run in runs}
    running |= routers
    scores: dict[str, dict[str, Evaluation]] = {}
    for number, (name, network) in enumerate(running.items(), start=1):
        scores[name] = {test: evaluate(network, task, x) for test, x in tests.items()}
        show(number, len(running) + 1, {})
    routed = {name: router.cost_report(task.scale) for name, router in routers.items()}
    ms = time_runs(runs, routers, task.channels, options)
    layer_times = _layer_times(runs, task.channels, options) if ms else {}
    networks = [
        _network(run, task, scores[run.name], ms.get(run.name), layer_times.get(run.name, {}))
        for run in runs
    ]
    networks += [
        bundle_row(x, scores[x.name], routed[x.name], ms.get(x.name)) for x in loaded.bundles
    ]
    contents = ReportContents(networks)
    shown = report_images(contents, running, task, tests, scores, options.images)
    shares = [routing_sentence(name, costs) for name, costs in routed.items()]
    return ReportContents(
        networks,
        timing_sentence(options.rounds, _size_words(options), options.threads)
        if ms
        else "Nothing was timed.",
        runs[0].name,
        shown,
        curve_panels({run.name: run.checkpoint.provenance for run in runs}, runs),
        paragraphs=[f"Evaluated on {', '.join(tests)}.", *shares],
        origin=_origin(loaded, task.protocol, options),
    )


def _network(
    run: NamedRun,
    task: Task,
    scores: Mapping[str, Evaluation],
    ms: float | None,
    times: Mapping[str, float],
) -> ReportNetwork:
    checkpoint = run.checkpoint
    shape = runnable_shape(checkpoint.module, task, HD_SIZE)
    summary = summarize(checkpoint.module, checkpoint.patterns, shape)
    seconds = checkpoint.provenance.get("seconds")
    return ReportNetwork(
        run.name,
        run.is_dense,
        checkpoint.bytes,
        summary.total.macs,
        summary.total.params,
        ms,
        seconds if isinstance(seconds, int | float) and not run.is_dense else None,
        {name: score.psnr for name, score in scores.items()},
        {name: score.ssim for name, score in scores.items()},
        report_layers(summary, times),
    )


def time_runs(
    runs: Sequence[NamedRun],
    routers: Mapping[str, TileRouter],
    channels: int,
    options: ReportOptions,
) -> dict[str, float]:
    """Return the median milliseconds of each network in the engine, measured interleaved.

    Those of a bundle are with its tiles: cutting them, estimating their errors, stitching.

    Empty where the engine was not built; networks that it does not run are absent.
    """
    if native() is None or not options.rounds:
        return {}
    image = smooth_image(channels, options.size)
    cases = []
    for run in runs:
        try:
            engine = Compiled(run.checkpoint.module, options.threads)
            with torch.inference_mode():
                expected = engine(image)
        except UsageError:
            continue
        cases.append(
            BenchCase(run.name, "fp32", not run.is_dense, partial(engine, image), expected)
        )
    for name, router in routers.items():
        restore = partial(restore_image, router, image[0])
        cases.append(BenchCase(name, "fp32", True, restore, restore()))
    rows = run_interleaved(cases, options.threads, options.rounds)
    return {row.case.engine: row.ms for row in rows}


def _layer_times(
    runs: Sequence[NamedRun], channels: int, options: ReportOptions
) -> dict[str, dict[str, float]]:
    """Return the microseconds of the layers of each thin network."""
    size, times = Size(channels, *options.size), {}
    for run in runs:
        if run.is_dense:
            continue
        try:
            rows = kernel_report(Compiled(run.checkpoint.module, options.threads), size)
        except UsageError:
            continue
        times[run.name] = {row["layer"]: 1e3 * row["ms"] for row in rows}
    return times


def _size_words(options: ReportOptions) -> str:
    height, width = options.size
    return f"on an input of {width}x{height}"


def timing_sentence(rounds: int, size: str, threads: int) -> str:
    """Return what was timed, `size` in words, and on which machine.

    >>> timing_sentence(7, "on an input of 160x90", 2)[:57]
    'Times are medians of 7 runs in turns on an input of 160x9'
    """
    return (
        f"Times are medians of {rounds} runs in turns {size}: "
        f"{cpu_name()}, {threads} threads, native engine ({fastest()})."
    )


def curve_panels(
    records: Mapping[str, Mapping[str, Any]], runs: Sequence[NamedRun] = ()
) -> list[CurvePanel]:
    """Return panels of searches (`history` of a record), and of the training logs of runs."""
    histories = {name: x["history"] for name, x in records.items() if x.get("history")}
    panels = [
        CurvePanel(
            label,
            {
                name: [(row["step"], row[column]) for row in history if row.get(column) is not None]
                for name, history in histories.items()
            },
        )
        for column, label in CURVES.items()
        if histories
    ]
    logs = {run.name: _losses(run.folder) for run in runs if run.folder}
    logs = {name: line for name, line in logs.items() if len(line) > 1}
    return [*panels, CurvePanel("training loss", logs)] if logs else panels


def _losses(folder: Path) -> list[tuple[float, float]]:
    rows = JsonLines(folder / "metrics.jsonl").read()
    return [(row["step"], row["loss"]) for row in rows if "step" in row and row.get("loss")]


def protocol_sentence(protocol: MetricProtocol) -> str:
    """Return how PSNR and SSIM were computed."""
    return (
        f"PSNR in dB and SSIM of {protocol.channel}, a border of {protocol.crop} pixels cut, "
        f"rounded to {protocol.rounding}, range 0..{protocol.range}; means over images. "
        "Multiply-adds for a 1280x720 output"
    )


def _origin(loaded: ReportRuns, protocol: MetricProtocol, options: ReportOptions) -> dict[str, str]:
    seeds = {run.name: run.checkpoint.provenance.get("seed") for run in loaded.networks}
    listed = [f"{name} {seed}" for name, seed in seeds.items() if seed is not None]
    entries = {
        "protocol": protocol_sentence(protocol),
        "command": options.command,
        "versions": version_line(),
        "seeds": ", ".join(listed),
    }
    entries |= {f"SHA-256 of {run.name}": run.sha256 for run in loaded.networks}
    entries |= {f"SHA-256 of {one.name}": one.sha256 for one in loaded.bundles}
    return {key: value for key, value in entries.items() if value}
