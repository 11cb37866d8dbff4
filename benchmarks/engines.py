"""Latency of pruned networks in the native engine, and of dense ones in all engines.

    python benchmarks/engines.py [--networks edsr rfdn-x4] [--rounds 20] [--out bench-out]

All engines run a network interleaved in one process, by the code of `thinlens bench`: other
engines dense (MNN also with its sparse kernels), the native one dense and at N:32, pruned networks
also on one thread; CPU milliseconds are those of all threads. A name has random weights, `rfdn-x4`
and `realesr-animevideov3` are shipped checkpoints. A network's figures go to OUT/NETWORK.json; the
same command again measures only missing ones. Prints Markdown. With `--threads 1` times are the
CPU's, which other programs hardly change.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from thinlens.benchmark.backends import BENCH_PRECISIONS, SPARSE_BACKENDS, BackendSettings
from thinlens.benchmark.cases import Backends, collect_backends, parse_backends, parse_precisions
from thinlens.benchmark.inputs import smooth_image
from thinlens.benchmark.interleaved import (
    NATIVE_NAME,
    BenchCase,
    BenchRow,
    best_dense,
    run_interleaved,
    speedups,
)
from thinlens.benchmark.run import ALL_BACKENDS, describe_machine
from thinlens.cli import values
from thinlens.cli.bench import load_branch
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.kernel_report import measure_precision
from thinlens.engine.native import build
from thinlens.files import write_json
from thinlens.models import image_channels
from thinlens.progress import progress_bar

PATTERNS = ("8:32", "4:32", "2:32")

PLANNED_SIZES = 5


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Measure missing networks and print the tables."""

    networks: tuple[str, ...] = ("edsr", "carn", "rfdn-x4", "realesr-animevideov3")
    size: str = "320x180"
    """Of the input: x4 makes it 1280x720."""
    threads: int = 2
    rounds: int = 20
    precision: str = ",".join(BENCH_PRECISIONS)
    against: str = ALL_BACKENDS
    out: Path = Path("bench-out")

    def run(self) -> None:
        """Measure each network that has no file of these settings, and print all."""
        results = {}
        for name in self.networks:
            path = self.out / f"{Path(name).name}.json"
            settings = self._settings()
            content = json.loads(path.read_text()) if path.exists() else {}
            if content.get("settings") != settings:
                content = {"settings": settings, **self._measured(name)}
                self.out.mkdir(parents=True, exist_ok=True)
                write_json(path, content)
            results[name] = content
            print("\n".join(times(name, content)), flush=True)
        print("\n".join(ratios(results)))

    def _settings(self) -> dict[str, Any]:
        """Return the settings on which figures depend; figures of others are not reused."""
        options = {
            key: value for key, value in asdict(self).items() if key not in ("networks", "out")
        }
        return {**options, "build": build(), "machine": describe_machine()}

    def _measured(self, name: str) -> dict[str, Any]:
        torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        thin = {pattern: load_branch(name, pattern) for pattern in PATTERNS}
        channels = image_channels(thin[PATTERNS[0]])
        image = smooth_image(channels, values.size(self.size))
        settings = [
            BackendSettings(self.threads, word) for word in parse_precisions(self.precision)
        ]
        with progress_bar(f"benchmarking {name}") as report:
            every: dict[str, Backends] = {}
            for pattern, module in thin.items():
                others = parse_backends(self.against)
                if every:  # zeros change nothing for the others
                    others = [other for other in others if other in SPARSE_BACKENDS]
                every[pattern] = collect_backends(module, image, settings, others)
            first = every[PATTERNS[0]]
            thin_ones = {p: [e for e in one.cases if e.sparse] for p, one in every.items()}
            alone = {p: self._alone(module, image) for p, module in thin.items()}
            full = [case for case in first.cases if not case.sparse]
            groups = [*thin_ones.values(), *alone.values()]
            cases = full + [e for group in groups for e in group]
            rows = run_interleaved(cases, self.threads, self.rounds, progress=report)
        slow = [row for row in rows if not row.case.sparse]
        fast, single = (
            {p: [row for row in rows if row.case in group] for p, group in some.items()}
            for some in (thin_ones, alone)
        )
        return {
            **summary(slow, fast),
            "scaling": scaling(single, fast),
            "planning_ms": planning_ms(thin[PATTERNS[0]], image, self.threads),
            "heuristic_loss": heuristic_losses(thin, image),
            "missing": first.missing,
        }

    def _alone(self, module: nn.Module, image: Tensor) -> list[BenchCase]:
        """Return the cases of the native engine on one thread, if `threads` is more."""
        if self.threads == 1:
            return []
        settings = [BackendSettings(1, word) for word in parse_precisions(self.precision)]
        return [case for case in collect_backends(module, image, settings, []).cases if case.sparse]


def summary(slow: Sequence[BenchRow], fast: Mapping[str, Sequence[BenchRow]]) -> dict[str, Any]:
    """Return all rows, and by pattern the speedups over the best dense engine."""
    best = best_dense(slow, BENCH_PRECISIONS)
    return {
        "rows": [row.as_json() | {"pattern": "dense"} for row in slow]
        + [row.as_json() | {"pattern": p} for p, rows in fast.items() for row in rows],
        "best_dense": best,
        "speedup": {p: speedups([*slow, *rows], best) for p, rows in fast.items()},
    }


def scaling(
    single: Mapping[str, Sequence[BenchRow]], fast: Mapping[str, Sequence[BenchRow]]
) -> dict[str, dict[str, float]]:
    """Return the time on one thread over that on all, by precision and pattern."""
    factors: dict[str, dict[str, float]] = {}
    for pattern, rows in single.items():
        ours = [row for row in fast[pattern] if row.case.engine == NATIVE_NAME]
        for one, many in zip(rows, ours if rows else [], strict=True):
            factors.setdefault(one.case.precision, {})[pattern] = one.ms / many.ms
    return factors


def planning_ms(module: nn.Module, image: Tensor, threads: int) -> float:
    """Return the CPU time in which the native engine plans a size, the median of some."""
    engine = Compiled(module, threads)
    channels, height, width = image.shape[1:]
    seconds = []
    for more in range(PLANNED_SIZES):
        begin = time.process_time()
        engine.plan(Size(channels, height + more, width))
        seconds.append(time.process_time() - begin)
    return 1e3 * median(seconds)


def heuristic_losses(thin: Mapping[str, nn.Module], image: Tensor) -> dict[str, float]:
    """Return by how much the heuristic's kernels of float32 are slower, by pattern."""
    size = Size(*image.shape[1:])
    return {
        pattern: measure_precision(module, size, "fp32").heuristic_loss
        for pattern, module in thin.items()
    }


def times(name: str, content: Mapping[str, Any]) -> list[str]:
    """Format one network's milliseconds, fastest first."""
    settings = content["settings"]
    about = ", ".join(f"{key} {value}" for key, value in settings["machine"].items())
    lines = [f"\n### {name}", f"{about}; {settings['threads']} threads, {settings['size']}", ""]
    head = "| engine | precision | weights | ms | p10 - p90 | CPU ms | dB to fp32 |"
    lines += [head, "|---" * 7 + "|"]
    for row in sorted(content["rows"], key=lambda row: row["ms_median"]):
        what = f"{row['engine']} | {row['precision']} | {row['pattern']}"
        spread = f"{row['ms_p10']:.1f} - {row['ms_p90']:.1f}"
        decibels = "inf" if row["decibels"] is None else f"{row['decibels']:.0f}"
        ms, cpu = (f"{row[key]:.1f}" for key in ("ms_median", "cpu_ms"))
        lines.append(f"| {what} | {ms} | {spread} | {cpu} | {decibels} |")
    missing = content["missing"]
    return lines + [f"\nmissing: {x['engine']} {x['precision']}: {x['why']}" for x in missing]


def ratios(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Format the speedups of pruned networks over the best dense engine."""
    lines = ["", f"| | {' | '.join(PATTERNS)} |", "|---" * (1 + len(PATTERNS)) + "|"]
    for name, content in results.items():
        best, factors = content["best_dense"], content["speedup"]
        for precision in ("fp32", "bf16", "any"):
            row = [factors[pattern][precision] for pattern in PATTERNS]
            if any(factor is not None for factor in row):
                against = f"{best[precision]['engine']} {best[precision]['ms']:.0f} ms"
                shown = " | ".join("-" if factor is None else f"{factor:.2f}" for factor in row)
                lines.append(f"| {name} {precision} over the best dense ({against}) | {shown} |")
        losses = " | ".join(f"{100 * content['heuristic_loss'][p]:.1f} %" for p in PATTERNS)
        lines.append(f"| {name}, heuristic's loss, fp32 | {losses} |")
        lines.append(f"| {name}, planning a size | {content['planning_ms']:.0f} ms |" + " |" * 2)
        threads = content["settings"]["threads"]
        for precision, factor in content["scaling"].items():
            shown = " | ".join(f"{factor[pattern]:.2f}" for pattern in PATTERNS)
            lines.append(f"| {name} {precision}, {threads} threads over one | {shown} |")
    return lines


if __name__ == "__main__":
    tyro.cli(Engines).run()
