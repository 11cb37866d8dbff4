"""Latency of pruned networks in the native engine, and of dense ones in all engines.

    python benchmarks/engines.py [--networks edsr rfdn-x4] [--rounds 20] [--out bench-out]

Each engine runs a network in a process of its own, which ends with the engine's memory (all of them
together hold 10 GB for EDSR), interleaved with the same reference: our dense network in float32.
So what counts is how many times as fast as the reference a row is, in its own process. Others run
dense (MNN also with its sparse kernels), the native engine dense and at N:32, pruned networks also
on one thread; CPU milliseconds are those of all threads. A name has random weights, `rfdn-x4` and
`realesr-animevideov3` are shipped checkpoints. Figures go to OUT/NETWORK/ENGINE.json; the same
command again measures only missing ones. Prints Markdown. With `--threads 1` times are the CPU's,
which other programs hardly change.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from thinlens.benchmark.backends import (
    DEFAULT_PRECISIONS,
    OUR_PRECISIONS,
    SPARSE_BACKENDS,
    BackendSettings,
)
from thinlens.benchmark.cases import (
    Backends,
    add_others,
    collect_backends,
    parse_backends,
    parse_precisions,
    torch_output,
)
from thinlens.benchmark.inputs import smooth_image
from thinlens.benchmark.interleaved import NATIVE_NAME, BenchCase, BenchRow, run_interleaved
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

DENSE = "dense"

PLANNED_SIZES = 5

NOT_MEASURED_BY = ("networks", "out", "only", "one_process")
"""Options on which figures do not depend."""


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Measure missing networks and print the tables."""

    networks: tuple[str, ...] = ("edsr", "carn", "rfdn-x4", "realesr-animevideov3")
    size: str = "320x180"
    """Of the input: x4 makes it 1280x720."""
    threads: int = 2
    rounds: int = 20
    precision: str = DEFAULT_PRECISIONS
    against: str = ALL_BACKENDS
    out: Path = Path("bench-out")
    only: str = ""
    """Measure one engine and print nothing."""
    one_process: bool = False
    """Measure in this process, which then holds the memory of all engines."""

    def run(self) -> None:
        """Measure the engines that have no file of these settings, and print all."""
        engines = [self.only] if self.only else [NATIVE_NAME, *families(self.against)]
        contents = {}
        for name in self.networks:
            for engine in engines:
                self._measure_once(name, engine)
            if not self.only:
                contents[name] = self._combined(name, engines)
                print("\n".join(times(name, contents[name])), flush=True)
        if contents:
            print("\n".join(ratios(contents)))

    def _measure_once(self, name: str, engine: str) -> None:
        """Write an engine's file unless it holds figures of these settings."""
        path, settings = self._path(name, engine), self._settings()
        if path.exists() and json.loads(path.read_text()).get("settings") == settings:
            return
        if not (self.only or self.one_process):
            subprocess.run(self._command(name, engine), check=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        measured = Measurement.of(self, name).run(engine)
        write_json(path, {"settings": settings, **measured})

    def _path(self, name: str, engine: str) -> Path:
        return self.out / Path(name).name / f"{engine}.json"

    def _command(self, name: str, engine: str) -> list[str]:
        options = asdict(replace(self, networks=(name,), only=engine))
        del options["one_process"]
        options["networks"] = name
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
        flags = [word for flag in flags for word in flag.split("=", 1)]
        return [sys.executable, __file__, *flags]

    def _settings(self) -> dict[str, Any]:
        """Return the settings on which figures depend; figures of others are not reused."""
        options = {k: v for k, v in asdict(self).items() if k not in NOT_MEASURED_BY}
        return {**options, "build": build(), "machine": describe_machine()}

    def _combined(self, name: str, engines: Sequence[str]) -> dict[str, Any]:
        """Return all engines' figures of a network, and the speedups of pruned ones."""
        files = {engine: json.loads(self._path(name, engine).read_text()) for engine in engines}
        rows = [row for content in files.values() for row in content["rows"]]
        return {
            **files[NATIVE_NAME],
            "rows": rows,
            "missing": [entry for content in files.values() for entry in content["missing"]],
            "peak_mb": {engine: content["peak_mb"] for engine, content in files.items()},
            "speedup": speedups(rows),
        }


@dataclass(frozen=True)
class Measurement:
    """A network, dense and pruned, and how it is measured."""

    name: str
    engines: Engines
    thin: Mapping[str, nn.Module]
    image: Tensor

    @classmethod
    def of(cls, engines: Engines, name: str) -> Measurement:
        """Load the network and prune it by all patterns."""
        torch.set_num_threads(engines.threads)
        torch.manual_seed(0)
        thin = {pattern: load_branch(name, pattern) for pattern in PATTERNS}
        channels = image_channels(thin[PATTERNS[0]])
        return cls(name, engines, thin, smooth_image(channels, values.size(engines.size)))

    def run(self, engine: str) -> dict[str, Any]:
        """Measure one engine, beside the reference."""
        threads, rounds = self.engines.threads, self.engines.rounds
        native = self._native() if engine == NATIVE_NAME else self._reference()
        cases = {p: native[p].cases if p in native else [] for p in (DENSE, *PATTERNS)}
        others = self._others(engine)
        for pattern, backends in others.items():
            cases[pattern] = [*cases[pattern], *backends.cases]
        alone = self._alone() if engine == NATIVE_NAME and threads > 1 else {}
        timed = [case for group in (*cases.values(), *alone.values()) for case in group]
        with progress_bar(f"benchmarking {self.name} by {engine}") as report:
            rows = run_interleaved(timed, threads, rounds, progress=report)
        by_pattern = {p: [row for row in rows if row.case in group] for p, group in cases.items()}
        of_one = {p: [row for row in rows if row.case in group] for p, group in alone.items()}
        measured = {
            "rows": shown_rows(by_pattern, keep_reference=engine == NATIVE_NAME),
            "missing": [*native[DENSE].missing, *(others[DENSE].missing if others else [])],
        }
        if engine == NATIVE_NAME:
            measured["scaling"] = scaling(of_one, by_pattern)
            measured["planning_ms"] = planning_ms(self.thin[PATTERNS[0]], self.image, threads)
            measured["heuristic_loss"] = heuristic_losses(self.thin, self.image)
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {**measured, "peak_mb": round(kilobytes / 1e3)}

    def _native(self) -> dict[str, Backends]:
        """Return our cases by pattern; the first dense one is the reference."""
        of_patterns = {p: self._native_of(module) for p, module in self.thin.items()}
        first = of_patterns[PATTERNS[0]]
        dense = Backends([case for case in first.cases if not case.sparse], first.missing)
        thin = {
            p: Backends([case for case in backends.cases if case.sparse])
            for p, backends in of_patterns.items()
        }
        return {DENSE: dense, **thin}

    def _reference(self) -> dict[str, Backends]:
        """Return our dense network in float32."""
        words = [BackendSettings(self.engines.threads, "fp32")]
        backends = collect_backends(self.thin[PATTERNS[0]], self.image, words, [])
        return {DENSE: Backends(backends.cases[:1])}

    def _native_of(self, module: nn.Module, threads: int | None = None) -> Backends:
        words = [word for word in parse_precisions(self.engines.precision) if word != "int8"]
        settings = [BackendSettings(threads or self.engines.threads, word) for word in words]
        return collect_backends(module, self.image, settings, [])

    def _alone(self) -> dict[str, list[BenchCase]]:
        """Return our cases of pruned networks on one thread."""
        of_patterns = {p: self._native_of(module, 1) for p, module in self.thin.items()}
        return {p: [case for case in b.cases if case.sparse] for p, b in of_patterns.items()}

    def _others(self, engine: str) -> dict[str, Backends]:
        """Return the modes of another engine; zeros change nothing for those that skip none."""
        names = [x for x in parse_backends(self.engines.against) if family(x) == engine]
        skipping = [name for name in names if name in SPARSE_BACKENDS]
        modes = {DENSE: [name for name in names if name not in skipping]}
        modes |= dict.fromkeys(PATTERNS if skipping else (), skipping)
        found = {pattern: Backends() for pattern in modes}
        for pattern, backends in found.items():
            module = self.thin[PATTERNS[0] if pattern == DENSE else pattern]
            expected = torch_output(module, self.image)
            for word in parse_precisions(self.engines.precision):
                if word not in OUR_PRECISIONS:
                    setting = BackendSettings(self.engines.threads, word)
                    add_others(backends, module, self.image, setting, expected, modes[pattern])
        return found


def family(backend: str) -> str:
    """Return the engine that a backend is a mode of: torch of torch-compile."""
    return backend.partition("-")[0]


def families(against: str) -> list[str]:
    """List the engines of `--against`."""
    return list(dict.fromkeys(map(family, parse_backends(against))))


def shown_rows(
    rows: Mapping[str, Sequence[BenchRow]], *, keep_reference: bool
) -> list[dict[str, Any]]:
    """Return rows with their patterns, and how many times as fast as the reference they are."""
    reference = rows[DENSE][0]
    every = [(pattern, row) for pattern, group in rows.items() for row in group]
    return [
        row.as_json() | {"pattern": pattern, "speed": reference.ms / row.ms}
        for pattern, row in every
        if keep_reference or row is not reference
    ]


def scaling(
    single: Mapping[str, Sequence[BenchRow]], fast: Mapping[str, Sequence[BenchRow]]
) -> dict[str, dict[str, float]]:
    """Return the time on one thread over that on all, by precision and pattern."""
    factors: dict[str, dict[str, float]] = {}
    for pattern, rows in single.items():
        for one, many in zip(rows, fast[pattern], strict=True):
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


def speedups(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by what the pruned networks are faster than dense ones, by words for the latter.

    Each has the dense row's engine, precision and milliseconds, and the factors by pattern.
    """
    ours = [row for row in rows if row["engine"] == NATIVE_NAME]
    dense = [row for row in rows if row["pattern"] == DENSE]
    foreign = [row for row in dense if row["engine"] != NATIVE_NAME]
    named: dict[str, dict[str, Any]] = {}
    for precision in ("fp32", "bf16", "int16", "any"):
        thin = [row for row in ours if precision in (row["precision"], "any")]
        for whose, group in (("of others", foreign), ("of anyone", dense)):
            alike = [row for row in group if precision in (row["precision"], "any")]
            if not alike or not any(row["pattern"] != DENSE for row in thin):
                continue
            best = max(alike, key=lambda row: row["speed"])
            named[f"{precision} over the best dense one {whose}"] = {
                "engine": best["engine"],
                "precision": best["precision"],
                "ms": best["ms_median"],
                "factors": {
                    pattern: max(row["speed"] for row in thin if row["pattern"] == pattern)
                    / best["speed"]
                    for pattern in (DENSE, *PATTERNS)
                },
            }
    return named


def times(name: str, content: Mapping[str, Any]) -> list[str]:
    """Format one network's milliseconds, fastest first."""
    settings = content["settings"]
    about = ", ".join(f"{key} {value}" for key, value in settings["machine"].items())
    lines = [f"\n### {name}", f"{about}; {settings['threads']} threads, {settings['size']}", ""]
    names = ("engine", "precision", "weights", "ms", "p10 - p90", "CPU ms", "dB to fp32", "speed")
    lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in sorted(content["rows"], key=lambda row: row["speed"], reverse=True):
        what = f"{row['engine']} | {row['precision']} | {row['pattern']}"
        spread = f"{row['ms_p10']:.1f} - {row['ms_p90']:.1f}"
        decibels = "inf" if row["decibels"] is None else f"{row['decibels']:.0f}"
        ms, cpu = (f"{row[key]:.1f}" for key in ("ms_median", "cpu_ms"))
        lines.append(f"| {what} | {ms} | {spread} | {cpu} | {decibels} | {row['speed']:.2f} |")
    memory = ", ".join(f"{engine} {mb}" for engine, mb in content["peak_mb"].items())
    lines.append(f"\npeak memory in MB: {memory}")
    missing = content["missing"]
    return lines + [f"missing: {x['engine']} {x['precision']}: {x['why']}" for x in missing]


def ratios(contents: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Format the speedups of dense and pruned networks over the best dense engine."""
    lines = ["", f"| | {DENSE} | {' | '.join(PATTERNS)} |", "|---" * (2 + len(PATTERNS)) + "|"]
    for name, content in contents.items():
        for words, best in content["speedup"].items():
            against = f"{best['engine']} {best['precision']} {best['ms']:.0f} ms"
            shown = " | ".join(f"{factor:.2f}" for factor in best["factors"].values())
            lines.append(f"| {name} {words} ({against}) | {shown} |")
        losses = " | ".join(f"{100 * content['heuristic_loss'][p]:.1f} %" for p in PATTERNS)
        lines.append(f"| {name}, heuristic's loss, fp32 | | {losses} |")
        lines.append(f"| {name}, planning a size | {content['planning_ms']:.0f} ms |" + " |" * 3)
        threads = content["settings"]["threads"]
        for precision, factor in content["scaling"].items():
            shown = " | ".join(f"{factor[pattern]:.2f}" for pattern in PATTERNS)
            lines.append(f"| {name} {precision}, {threads} threads over one | | {shown} |")
    return lines


if __name__ == "__main__":
    tyro.cli(Engines).run()
