"""The command `bench`: time a network in the native engine and in other engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli import values
from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError
from thinlens.progress import progress_bar

if TYPE_CHECKING:
    from torch import nn

    from thinlens.report.tables import Table

MOST_ROUNDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Bench(Verb):
    """Time a network in the native engine and in other engines, interleaved, in one run.

    Example: thinlens bench rfdn-x4 --pattern 8:32 --size 320x180
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME|CHECKPOINT")]
    """A network's name, which takes random weights, or a checkpoint: a folder or a shipped name."""
    pattern: Annotated[str | None, tyro.conf.arg(metavar="N:M", help_behavior_hint="")] = None
    """Keep the N largest of every M weights in every prunable layer, such as 8:32."""
    branch: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """The branch of a routed network, 0 for the smallest (default: the largest)."""
    size: Annotated[str, tyro.conf.arg(metavar="WIDTHxHEIGHT")] = "320x180"
    """Size of the input."""
    threads: int = 2
    """Threads of every engine. Times of one thread are CPU times, others wall times."""
    precision: Annotated[str, tyro.conf.arg(metavar="fp32,bf16,int16,fast,int8")] = (
        "fp32,bf16,int16,int8"
    )
    """Precisions, separated by commas: int16 and fast, the fastest within 0.01 dB of fp32, run in
    thinlens only, int8 in the others only; integers are calibrated on the timed image."""
    against: Annotated[str, tyro.conf.arg(metavar="ENGINES")] = "torch,onnxruntime,openvino,ncnn"
    """Engines, separated by commas: torch (eager, torch-channels-last and torch-compile, which can
    also be named alone), onnxruntime, openvino, ncnn; or none."""
    rounds: int = 20
    """Timed runs of each engine, of which medians are printed."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write an HTML page."""

    def run(self) -> Answer:
        from thinlens.api import bench

        self._check_numbers()
        size = values.size(self.size)
        module = load_branch(self.source, self.pattern, self.branch)
        with progress_bar(f"benchmarking {self.source}") as show:
            result = bench(
                module,
                size,
                precision=self.precision,
                against=self.against,
                threads=self.threads,
                rounds=self.rounds,
                progress=show,
            )
        content = result.as_json()
        table, lines = _table(content), _lines(content)
        if self.report is not None:
            from thinlens.experiments.bench_report import write_bench_page

            write_bench_page(self.report, self.source, result, table)
            lines.append(f"{self.report}: the same as a page")
        return Answer(content, (table.rich(), "\n".join(lines)))

    def _check_numbers(self) -> None:
        from thinlens.engine.compiled import MAX_THREADS

        for flag, value, most in (
            ("threads", self.threads, MAX_THREADS),
            ("rounds", self.rounds, MOST_ROUNDS),
        ):
            if not 1 <= value <= most:
                raise UsageError(f"--{flag} {value}: wanted 1 to {most}")


def load_branch(source: str, pattern: str | None, branch: int | None = None) -> nn.Module:
    """Return the network of a name or a checkpoint, pruned, in evaluation mode.

    `branch` selects one of a routed network, by default the largest.
    """
    from thinlens.dynamic.model import model_of
    from thinlens.experiments.networks import initialize_network, load_source, prune_uniformly
    from thinlens.models import MODELS

    if source in MODELS:
        module = initialize_network(source)
    else:
        checkpoint = load_source(source)
        module = checkpoint.module
        if pattern and checkpoint.patterns:
            raise UsageError(f"--pattern {pattern}: {source} is pruned already")
    module = model_of(module).branch(branch, source)
    return (prune_uniformly(module, *values.pattern(pattern)) if pattern else module).eval()


def _table(content: Mapping[str, Any]) -> Table:
    from thinlens.report.tables import Table

    rows = sorted(content["rows"], key=lambda row: row["ms_median"])
    return Table(
        ("engine", "precision", "weights", "ms", "p10", "p90", "CPU ms", "max error", "dB to fp32"),
        [
            (
                row["engine"],
                row["precision"],
                "sparse" if row["sparse"] else "dense",
                *(f"{row[key]:.1f}" for key in ("ms_median", "ms_p10", "ms_p90", "cpu_ms")),
                f"{row['max_abs_error']:.1e}",
                "inf" if row["decibels"] is None else f"{row['decibels']:.1f}",
            )
            for row in rows
        ],
    )


def _lines(content: Mapping[str, Any]) -> list[str]:
    machine = content["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['kernels']} kernels, torch "
        f"{machine['torch']}; input {machine['size']}, batch 1; medians, engines interleaved",
        _roofline(machine["roofline"]),
    ]
    for name, factor in content["speedup"].items():
        if factor is not None:
            best = content["best_dense"][name]
            lines.append(f"{name}: {factor:.2f} x the best dense ({best['engine']})")
    lines += [f"missing: {x['engine']} {x['precision']}: {x['why']}" for x in content["missing"]]
    return lines


def _roofline(fractions: Mapping[str, float] | None) -> str:
    if fractions is None:
        return "no network ran in float32 in the native engine: no roofline"
    return (
        f"thinlens: {fractions['gflops']:.0f} GFLOP/s on non-zeros, "
        f"{fractions['share_of_peak']:.0%} of the {fractions['peak_gflops']:.0f} that "
        f"multiply-adds reach here; its tensors are {fractions['share_of_memory']:.0%} of the "
        f"{fractions['memory_gb_per_s']:.1f} GB/s that copying reaches"
    )
