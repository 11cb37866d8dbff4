"""Benchmark of one network: interleaved times of all engines, speed-ups and the roofline."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from thinlens.benchmark.backends import BENCH_PRECISIONS, DEFAULT_PRECISIONS, BackendSettings
from thinlens.benchmark.cases import Backends, collect_backends, parse_backends, parse_precisions
from thinlens.benchmark.inputs import smooth_image
from thinlens.benchmark.interleaved import BenchRow, best_dense, run_interleaved, speedups
from thinlens.benchmark.roofline import measure_roofline, roofline_fractions
from thinlens.engine.graph import Size
from thinlens.engine.native import fastest
from thinlens.engine.timings import cpu_name
from thinlens.models import image_channels
from thinlens.progress import Progress

ALL_BACKENDS = "torch,onnxruntime,openvino,ncnn,mnn,xnnpack"
"""The other engines, separated by commas; those that are not installed are listed as missing."""

PACKAGES = ("torch", "onnxruntime", "openvino", "ncnn", "mnn", "executorch")


@dataclass(frozen=True)
class BenchResult:
    """The times of a network in the native engine and in other engines."""

    machine: dict[str, Any]
    """CPU, cores, versions and, under `roofline`, the fractions of the CPU's limits, or None."""
    rows: tuple[BenchRow, ...]
    """One for each engine and precision."""
    missing: tuple[dict[str, str], ...]
    """Engines that did not run, with the reason."""

    @property
    def best_dense(self) -> dict[str, Any]:
        """The fastest engine that multiplies by every zero, by precision and of `any`."""
        return best_dense(self.rows, BENCH_PRECISIONS)

    def as_json(self) -> dict[str, Any]:
        """Return what `thinlens bench --json` prints."""
        return {
            "machine": self.machine,
            "rows": [row.as_json() for row in self.rows],
            "best_dense": self.best_dense,
            "speedup": speedups(self.rows, self.best_dense),
            "missing": list(self.missing),
        }


def bench(  # noqa: PLR0913 - keyword-only, each has one meaning
    module: nn.Module,
    size: tuple[int, int],
    *,
    precision: str = DEFAULT_PRECISIONS,
    against: str = ALL_BACKENDS,
    threads: int = 2,
    rounds: int = 20,
    progress: Progress | None = None,
) -> BenchResult:
    """Time `module` on an image of `size` (height, width) in all engines, interleaved.

    `precision` and `against` are lists separated by commas; `none` stands for no other engine.
    """
    settings = [BackendSettings(threads, name) for name in parse_precisions(precision)]
    backends = parse_backends(against)
    channels = image_channels(module)
    image = smooth_image(channels, size)
    with _torch_threads(threads):
        prepared = collect_backends(module, image, settings, backends)
        rows = run_interleaved(prepared.cases, threads, rounds, progress=progress)
        roofline = _roofline(prepared, rows, Size(channels, *size), threads)
    machine = {**describe_machine(), "size": f"{size[1]}x{size[0]}", "roofline": roofline}
    return BenchResult(machine, tuple(rows), tuple(prepared.missing))


def describe_machine() -> dict[str, Any]:
    """Return the CPU, its cores, the native kernels and the versions of the installed engines."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "kernels": fastest(), **versions}


def _roofline(
    backends: Backends, rows: Sequence[BenchRow], size: Size, threads: int
) -> dict[str, float] | None:
    """Return the fractions of the CPU's limits that float32 reaches in the native engine."""
    if backends.native is None:
        return None
    native_row = next(row for row in rows if row.case.run == backends.native.run)
    limits = measure_roofline(threads)
    fractions = roofline_fractions(backends.native.engine.plan(size), native_row.ms / 1e3, limits)
    return {
        "gflops": fractions.flops / 1e9,
        "peak_gflops": limits.flops / 1e9,
        "share_of_peak": fractions.of_flops,
        "memory_gb_per_s": limits.bytes / 1e9,
        "share_of_memory": fractions.of_bytes,
    }


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
