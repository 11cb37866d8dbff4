"""The verb `bench`: how fast a thin network is beside every engine that is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from thinlens.cli import values
from thinlens.cli.verb import Answer, Verb
from thinlens.errors import UsageError
from thinlens.progress import progress_bar

if TYPE_CHECKING:
    from torch import nn

    from thinlens.bench.cases import LineUp
    from thinlens.bench.interleaved import Row

MOST_ROUNDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Bench(Verb):
    """Time a network in the native engine and in the engines of others, in turns, in one run.

    Example: thinlens bench rfdn-x4 --pattern 8:32 --size 320x180
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME|CHECKPOINT")]
    """A network's name, which takes random weights, or a checkpoint: a folder or a shipped name."""
    pattern: Annotated[str | None, tyro.conf.arg(metavar="N:M", help_behavior_hint="")] = None
    """Keep the N largest of every M weights in every prunable layer, such as 8:32."""
    branch: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """The branch of a network that routes, 0 for the thinnest (default: its fullest)."""
    size: Annotated[str, tyro.conf.arg(metavar="WIDTHxHEIGHT")] = "320x180"
    """Size of the input."""
    threads: int = 2
    """Threads of every engine. Times of one thread are the CPU's, others the wall's."""
    precision: Annotated[str, tyro.conf.arg(metavar="fp32,bf16,int8")] = "fp32,bf16,int8"
    """Precisions, separated by commas; int8 is what others have, calibrated on the image that is
    timed."""
    against: Annotated[str, tyro.conf.arg(metavar="ENGINES")] = "torch,onnxruntime,openvino,ncnn"
    """Engines, separated by commas: torch (eager, torch-channels-last and torch-compile, which can
    also be named alone), onnxruntime, openvino, ncnn; or none."""
    rounds: int = 20
    """Timed runs of each engine, of which medians are printed."""

    def run(self) -> Answer:
        import torch

        from thinlens.bench.backends import PRECISIONS, Setting
        from thinlens.bench.cases import engines, line_up, precisions
        from thinlens.bench.inputs import smooth_image
        from thinlens.bench.interleaved import best_dense, compete, speedup
        from thinlens.models import image_channels

        self._check_numbers()
        settings = [Setting(self.threads, name) for name in precisions(self.precision)]
        against, size = engines(self.against), values.size(self.size)
        module = network(self.source, self.pattern, self.branch)
        image = smooth_image(image_channels(module), size)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with progress_bar(f"benchmarking {self.source}") as report:
                found = line_up(module, image, settings, against)
                rows = compete(found.entrants, self.threads, self.rounds, report=report)
            machine, sentence = self._machine(found, rows)
        finally:
            torch.set_num_threads(before)
        best = best_dense(rows, PRECISIONS)
        content = {
            "machine": machine,
            "rows": [row.as_json() for row in rows],
            "best_dense": best,
            "speedup": speedup(rows, best),
            "missing": found.missing,
        }
        return Answer(content, _text(content, sentence))

    def _check_numbers(self) -> None:
        from thinlens.engine.compiled import MOST_THREADS

        for flag, value, most in (
            ("threads", self.threads, MOST_THREADS),
            ("rounds", self.rounds, MOST_ROUNDS),
        ):
            if not 1 <= value <= most:
                raise UsageError(f"--{flag} {value}: wanted 1 to {most}")

    def _machine(self, found: LineUp, rows: Sequence[Row]) -> tuple[dict[str, Any], str]:
        """Return what the numbers were measured on, and the roofline in a sentence."""
        from thinlens.bench.roofline import limits, shares
        from thinlens.engine.graph import Size
        from thinlens.models import image_channels

        described = {**machine(), "size": self.size, "roofline": None}
        if found.thin is None:
            return described, "no network ran in float32 in the native engine: no roofline"
        ours = next(row for row in rows if row.entrant.run == found.thin.run)
        most = limits(self.threads)
        engine = found.thin.engine
        plan = engine.plan(Size(image_channels(engine.module), *values.size(self.size)))
        part = shares(plan, ours.ms / 1e3, most)
        described["roofline"] = {
            "gflops": part.flops / 1e9,
            "peak_gflops": most.flops / 1e9,
            "share_of_peak": part.of_flops,
            "memory_gb_per_s": most.bytes / 1e9,
            "share_of_memory": part.of_bytes,
        }
        return described, (
            f"thinlens: {part.flops / 1e9:.0f} GFLOP/s on non-zeros, {part.of_flops:.0%} of the "
            f"{most.flops / 1e9:.0f} that multiply-adds reach here; its tensors are "
            f"{part.of_bytes:.0%} of the {most.bytes / 1e9:.1f} GB/s that copying reaches"
        )


def network(source: str, pattern: str | None, branch: int | None = None) -> nn.Module:
    """Return what a name or a checkpoint stands for, zeros in place, in evaluation mode.

    Of a network that routes it is one branch.
    """
    from thinlens.dynamic.routed import Routed
    from thinlens.experiments.networks import initialize_network, load_source, prune_uniformly
    from thinlens.models import MODELS

    if source in MODELS:
        module = initialize_network(source)
    else:
        checkpoint = load_source(source)
        module = checkpoint.module
        if pattern and checkpoint.patterns:
            raise UsageError(f"--pattern {pattern}: {source} is pruned already")
    if isinstance(module, Routed):
        last = module.count - 1
        if branch is not None and not 0 <= branch <= last:
            raise UsageError(f"--branch {branch}: {source} has branches 0 to {last}")
        module = module.alone(last if branch is None else branch)
    elif branch is not None:
        raise UsageError(f"--branch {branch}: {source} has no branches")
    return (prune_uniformly(module, *values.pattern(pattern)) if pattern else module).eval()


def machine() -> dict[str, Any]:
    """Describe this machine and the engines on it."""
    import os
    from importlib.metadata import PackageNotFoundError, version

    from thinlens.engine.native import fastest
    from thinlens.engine.timings import cpu

    versions = {}
    for package in ("torch", "onnxruntime", "openvino", "ncnn"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"cpu": cpu(), "cores": os.cpu_count(), "kernels": fastest(), **versions}


def _text(content: Mapping[str, Any], roofline: str) -> tuple[Any, ...]:
    from thinlens.report.tables import Table

    rows = sorted(content["rows"], key=lambda row: row["ms_median"])
    table = Table(
        ("engine", "precision", "weights", "ms", "p10", "p90", "max error"),
        [
            (
                row["engine"],
                row["precision"],
                "sparse" if row["sparse"] else "dense",
                *(f"{row[key]:.1f}" for key in ("ms_median", "ms_p10", "ms_p90")),
                f"{row['max_abs_error']:.1e}",
            )
            for row in rows
        ],
    )
    machine = content["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['kernels']} kernels, torch "
        f"{machine['torch']}; input {machine['size']}, batch 1; medians, engines in turns",
        roofline,
    ]
    for name, factor in content["speedup"].items():
        if factor is not None:
            best = content["best_dense"][name]
            lines.append(f"{name}: {factor:.2f} x the best dense ({best['engine']})")
    lines += [f"missing: {x['engine']} {x['precision']}: {x['why']}" for x in content["missing"]]
    return table.rich(), "\n".join(lines)
