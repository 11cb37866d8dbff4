"""A benchmark of several engines counts, compares, and lists what cannot run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cli_cases import run, sr_checkpoint
from native_engine import built
from thinlens.benchmark import cases as cases_module
from thinlens.benchmark.backends import BACKENDS, BackendSettings, UnavailableError
from thinlens.benchmark.backends.silence import silence
from thinlens.benchmark.cases import (
    collect_backends,
    parse_backends,
    parse_precisions,
    torch_output,
)
from thinlens.benchmark.interleaved import (
    BenchCase,
    bench_clock,
    best_dense,
    run_interleaved,
    speedups,
)
from thinlens.benchmark.roofline import RooflineLimits, roofline_fractions
from thinlens.engine.timings import Clock

FP32 = BackendSettings(1, "fp32")


class Stopwatch:
    """Time that passes only in the runs of a case."""

    def __init__(self) -> None:
        self.time = 0.0
        self.order: list[str] = []

    def clock(self) -> Clock:
        return Clock(lambda: self.time, lambda seconds: None)

    def case(self, name: str, times: Iterator[float], sparse: bool = False) -> BenchCase:
        def work() -> Tensor:
            self.order.append(name)
            self.time += next(times)
            return torch.zeros(1)

        return BenchCase(name, "fp32", sparse, work, torch.ones(1))


@given(st.lists(st.floats(1e-4, 10), min_size=1, max_size=25))
def test_the_median_and_percentiles_are_those_of_the_timed_rounds(times: list[float]) -> None:
    watch = Stopwatch()
    warm_up = [99.0, 99.0]
    case = watch.case("a", iter([*warm_up, *times]))
    (row,) = run_interleaved([case], 2, len(times), clock=watch.clock())
    answer = row.as_json()
    expected = [1e3 * float(q) for q in np.percentile(times, [50, 10, 90])]
    got = [answer["ms_median"], answer["ms_p10"], answer["ms_p90"]]
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert answer["threads"] == 2


def test_the_clock_of_one_thread_stands_while_others_work() -> None:
    now = {threads: bench_clock(threads).now for threads in (1, 2)}
    before = {threads: clock() for threads, clock in now.items()}
    time.sleep(0.05)
    passed = {threads: clock() - before[threads] for threads, clock in now.items()}
    assert passed[1] < 0.02 and passed[2] >= 0.05


def test_cases_are_interleaved_and_none_always_follows_the_same_one() -> None:
    watch = Stopwatch()
    names = ["a", "b", "c"]
    cases = [watch.case(name, repeat(0.1)) for name in names]
    run_interleaved(cases, 1, 3, clock=watch.clock())
    timed = "".join(watch.order[-9:])
    assert timed == "abcbcacab"


def test_speedups_are_over_the_best_dense_row() -> None:
    watch = Stopwatch()
    times = {"torch": 0.3, "onnxruntime": 0.2, "thinlens": 0.05}
    cases = [
        watch.case(name, repeat(seconds), sparse=name == "thinlens")
        for name, seconds in times.items()
    ]
    rows = run_interleaved(cases, 1, 2, clock=watch.clock())
    best = best_dense(rows, ("fp32", "bf16", "int8"))
    assert best["fp32"]["engine"] == best["any"]["engine"] == "onnxruntime"
    assert best["bf16"] is None and best["int8"] is None
    assert speedups(rows, best) == {
        "fp32": pytest.approx(4.0),
        "bf16": None,
        "any": pytest.approx(4.0),
    }
    assert [row.max_abs_error for row in rows] == [1.0] * 3


def test_sparse_kernels_of_another_engine_are_not_our_speedup() -> None:
    watch = Stopwatch()
    cases = [
        watch.case("torch", repeat(0.3)),
        watch.case("mnn-sparse", repeat(0.01), sparse=True),
        watch.case("thinlens", repeat(0.1), sparse=True),
    ]
    rows = run_interleaved(cases, 1, 2, clock=watch.clock())
    assert speedups(rows, best_dense(rows, ("fp32",)))["fp32"] == pytest.approx(3.0)


def test_the_cpu_time_of_a_row_is_that_of_all_threads() -> None:
    def work() -> Tensor:
        begin = time.process_time()
        while time.process_time() - begin < 0.02:
            pass
        time.sleep(0.03)  # which is not the CPU's
        return torch.zeros(1)

    case = BenchCase("thinlens", "fp32", False, work, torch.zeros(1))
    (row,) = run_interleaved([case], 2, 2)
    assert 20 <= row.as_json()["cpu_ms"] < 50 <= row.ms


def test_what_libraries_print_is_silenced(capfd: pytest.CaptureFixture[str]) -> None:
    with silence():
        os.write(1, b"to nowhere")
        os.write(2, b"to nowhere")
    os.write(1, b"heard")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("heard", "")


def test_a_dense_network_has_no_speedup() -> None:
    watch = Stopwatch()
    rows = run_interleaved([watch.case("torch", iter([1.0] * 4))], 1, 1, clock=watch.clock())
    assert speedups(rows, best_dense(rows, ("fp32", "bf16"))) == {
        "fp32": None,
        "bf16": None,
        "any": None,
    }


def thin_network() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    with torch.no_grad():
        for weight in module.parameters():
            weight[torch.rand_like(weight) < 0.5] = 0
    return module.eval()


IMAGE = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "torch-compile"])
def test_a_backend_gives_what_torch_gives(name: str) -> None:
    module = thin_network()
    try:
        run_once = BACKENDS[name](module, IMAGE, FP32)
    except UnavailableError as why:
        pytest.skip(str(why))
    torch.testing.assert_close(run_once(), torch_output(module, IMAGE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "torch-compile"])
def test_a_backend_in_int8_is_near_torch_or_unavailable(name: str) -> None:
    module = thin_network()
    try:
        run_once = BACKENDS[name](module, IMAGE, BackendSettings(1, "int8"))
    except UnavailableError as why:
        assert "int8" in str(why) or "not installed" in str(why)
        return
    expected = torch_output(module, IMAGE)
    step = float(expected.max() - expected.min()) / 255
    assert 0 < float((run_once() - expected).abs().max()) < 4 * step  # it does compute in integers


@built
def test_the_native_engine_runs_sparse_and_dense_and_has_no_int8() -> None:
    module = thin_network()
    backends = collect_backends(module, IMAGE, [FP32, BackendSettings(1, "int8")], ["torch"])
    shown = [(e.engine, e.precision, e.sparse) for e in backends.cases]
    assert shown == [
        ("thinlens", "fp32", False),
        ("thinlens", "fp32", True),
        ("torch", "fp32", False),
    ]
    native, other = backends.missing
    assert (native["engine"], other["engine"]) == ("thinlens", "torch")
    assert native["why"].startswith("precision 'int8': wanted fp32")
    for row in run_interleaved(backends.cases[:3], 1, 1):
        assert row.max_abs_error < 1e-5


class Spectrum(nn.Module):
    """A network without any layer that the native engine has."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(image).real


@built
def test_other_backends_run_what_the_native_engine_cannot() -> None:
    backends = collect_backends(Spectrum(), IMAGE, [FP32], ["torch"])
    assert [case.engine for case in backends.cases] == ["torch"]
    assert "runs no layer" in backends.missing[0]["why"] and backends.native is None


@pytest.mark.parametrize("error", [UnavailableError("not here"), RuntimeError("not here\nmore")])
def test_an_engine_that_cannot_run_is_missing_with_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(module: nn.Module, image: Tensor, setting: BackendSettings) -> Callable[[], Tensor]:
        raise error

    monkeypatch.setitem(BACKENDS, "ncnn", refuse)
    monkeypatch.setattr(cases_module, "native", lambda: None)
    backends = collect_backends(thin_network(), IMAGE, [FP32], ["ncnn"])
    assert not backends.cases
    native, other = backends.missing
    assert native["engine"] == "thinlens" and "not built" in native["why"]
    assert other["engine"] == "ncnn" and other["why"].endswith("not here")


def test_the_words_of_against() -> None:
    assert parse_backends("torch,ncnn") == ["torch", "torch-channels-last", "torch-compile", "ncnn"]
    assert parse_backends("torch-compile,torch-compile") == ["torch-compile"]
    assert parse_backends("none") == []
    assert parse_precisions("fp32,bf16,fp32") == ["fp32", "bf16"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--against", "caffe"], "--against 'caffe'"),
        (["--precision", "fp64"], "--precision 'fp64'"),
        (["--threads", "0"], "--threads 0: wanted 1 to"),
        (["--rounds", "0"], "--rounds 0: wanted 1 to"),
        (["--size", "0x3"], "--size '0x3'"),
    ],
)
def test_wrong_use_is_one_sentence(flags: list[str], sentence: str, tmp_path: Path) -> None:
    ran = run("bench", sr_checkpoint(tmp_path / "net"), *flags)
    assert ran.status == 2
    assert sentence in ran.err and len(ran.err.splitlines()) == 1


@built
def test_the_roofline_counts_nonzero_weights() -> None:
    from thinlens.engine.compiled import Compiled
    from thinlens.engine.graph import Size

    module = thin_network()
    plan = Compiled(module, 1).plan(Size(3, 8, 12))
    nonzeros = sum(int((p != 0).sum()) for p in module.parameters() if p.dim() == 4)
    assert plan.multiply_adds == nonzeros * 8 * 12
    # in: image and tensor; conv 3 > 8; conv 8 > 3; out: tensor and image
    assert plan.traffic == 4 * 8 * 12 * (3 + 3 + (3 + 8) + (8 + 3) + 3 + 3)
    fractions = roofline_fractions(plan, 0.5, RooflineLimits(1e6, 1e6))
    assert fractions.flops == 4 * nonzeros * 8 * 12
    assert fractions.of_flops == pytest.approx(fractions.flops / 1e6)
    assert fractions.of_bytes == pytest.approx(2 * plan.traffic / 1e6)
