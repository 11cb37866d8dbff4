"""Does a comparison of engines count, compare and excuse as it promises?"""

from __future__ import annotations

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
from thinlens.benchmark import cases as lines
from thinlens.benchmark.backends import PEERS, Setting, UnavailableError
from thinlens.benchmark.cases import engines, line_up, precisions, reference
from thinlens.benchmark.interleaved import Clock, Entrant, best_dense, compete, speedup
from thinlens.benchmark.roofline import Limits, shares

FP32 = Setting(1, "fp32")


class Stopwatch:
    """Time that passes only where an engine says so."""

    def __init__(self) -> None:
        self.time = 0.0
        self.order: list[str] = []

    def clock(self) -> Clock:
        return Clock(lambda: self.time, lambda seconds: None)

    def entrant(self, name: str, times: Iterator[float], sparse: bool = False) -> Entrant:
        def work() -> Tensor:
            self.order.append(name)
            self.time += next(times)
            return torch.zeros(1)

        return Entrant(name, "fp32", sparse, work, torch.ones(1))


@given(st.lists(st.floats(1e-4, 10), min_size=1, max_size=25))
def test_the_median_and_percentiles_are_those_of_the_timed_rounds(times: list[float]) -> None:
    watch = Stopwatch()
    warm_up = [99.0, 99.0]
    entrant = watch.entrant("a", iter([*warm_up, *times]))
    (row,) = compete([entrant], 2, len(times), clock=watch.clock())
    answer = row.as_json()
    expected = [1e3 * float(q) for q in np.percentile(times, [50, 10, 90])]
    got = [answer["ms_median"], answer["ms_p10"], answer["ms_p90"]]
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert answer["threads"] == 2


def test_the_clock_of_one_thread_stands_while_others_work() -> None:
    now = {threads: Clock.of(threads).now for threads in (1, 2)}
    before = {threads: clock() for threads, clock in now.items()}
    time.sleep(0.05)
    passed = {threads: clock() - before[threads] for threads, clock in now.items()}
    assert passed[1] < 0.02 and passed[2] >= 0.05


def test_engines_take_turns_and_none_always_follows_the_same_one() -> None:
    watch = Stopwatch()
    names = ["a", "b", "c"]
    entrants = [watch.entrant(name, repeat(0.1)) for name in names]
    compete(entrants, 1, 3, clock=watch.clock())
    timed = "".join(watch.order[-9:])
    assert timed == "abcbcacab"


def test_speedups_are_over_the_best_dense_row() -> None:
    watch = Stopwatch()
    times = {"torch": 0.3, "onnxruntime": 0.2, "thinlens": 0.05}
    entrants = [
        watch.entrant(name, repeat(seconds), sparse=name == "thinlens")
        for name, seconds in times.items()
    ]
    rows = compete(entrants, 1, 2, clock=watch.clock())
    best = best_dense(rows, ("fp32", "bf16", "int8"))
    assert best["fp32"]["engine"] == best["any"]["engine"] == "onnxruntime"
    assert best["bf16"] is None and best["int8"] is None
    assert speedup(rows, best) == {
        "fp32": pytest.approx(4.0),
        "bf16": None,
        "any": pytest.approx(4.0),
    }
    assert [row.max_abs_error for row in rows] == [1.0] * 3


def test_a_dense_network_has_no_speedup() -> None:
    watch = Stopwatch()
    rows = compete([watch.entrant("torch", iter([1.0] * 4))], 1, 1, clock=watch.clock())
    assert speedup(rows, best_dense(rows, ("fp32", "bf16"))) == {
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


@pytest.mark.parametrize("name", [name for name in PEERS if name != "torch-compile"])
def test_a_peer_gives_what_torch_gives(name: str) -> None:
    module = thin_network()
    try:
        peer = PEERS[name](module, IMAGE, FP32)
    except UnavailableError as why:
        pytest.skip(str(why))
    torch.testing.assert_close(peer(), reference(module, IMAGE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in PEERS if name != "torch-compile"])
def test_a_peer_in_int8_is_near_torch_or_says_why_there_is_none(name: str) -> None:
    module = thin_network()
    try:
        peer = PEERS[name](module, IMAGE, Setting(1, "int8"))
    except UnavailableError as why:
        assert "int8" in str(why) or "not installed" in str(why)
        return
    expected = reference(module, IMAGE)
    step = float(expected.max() - expected.min()) / 255
    assert 0 < float((peer() - expected).abs().max()) < 4 * step  # it does compute in integers


@built
def test_ours_runs_sparse_and_dense_and_says_why_it_has_no_int8() -> None:
    module = thin_network()
    found = line_up(module, IMAGE, [FP32, Setting(1, "int8")], ["torch"])
    shown = [(e.engine, e.precision, e.sparse) for e in found.entrants]
    assert shown == [
        ("thinlens", "fp32", False),
        ("thinlens", "fp32", True),
        ("torch", "fp32", False),
    ]
    ours, theirs = found.missing
    assert (ours["engine"], theirs["engine"]) == ("thinlens", "torch")
    assert ours["why"].startswith("precision 'int8': wanted fp32")
    for row in compete(found.entrants[:3], 1, 1):
        assert row.max_abs_error < 1e-5


@built
def test_what_our_engine_cannot_run_others_still_do() -> None:
    found = line_up(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()), IMAGE, [FP32], ["torch"])
    assert [entrant.engine for entrant in found.entrants] == ["torch"]
    assert "'tanh'" in found.missing[0]["why"] and found.thin is None


@pytest.mark.parametrize("error", [UnavailableError("not here"), RuntimeError("not here\nmore")])
def test_an_engine_that_cannot_run_is_missing_with_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(module: nn.Module, image: Tensor, setting: Setting) -> Callable[[], Tensor]:
        raise error

    monkeypatch.setitem(PEERS, "ncnn", refuse)
    monkeypatch.setattr(lines, "native", lambda: None)
    found = line_up(thin_network(), IMAGE, [FP32], ["ncnn"])
    assert not found.entrants
    ours, theirs = found.missing
    assert ours["engine"] == "thinlens" and "not built" in ours["why"]
    assert theirs["engine"] == "ncnn" and theirs["why"].endswith("not here")


def test_the_words_of_against() -> None:
    assert engines("torch,ncnn") == ["torch", "torch-channels-last", "torch-compile", "ncnn"]
    assert engines("torch-compile,torch-compile") == ["torch-compile"]
    assert engines("none") == []
    assert precisions("fp32,bf16,fp32") == ["fp32", "bf16"]


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
def test_the_roofline_counts_living_weights() -> None:
    from thinlens.engine.compiled import Compiled
    from thinlens.engine.graph import Size

    module = thin_network()
    plan = Compiled(module, 1).plan(Size(3, 8, 12))
    living = sum(int((p != 0).sum()) for p in module.parameters() if p.dim() == 4)
    assert plan.multiply_adds == living * 8 * 12
    # in: image and tensor; conv 3 > 8; conv 8 > 3; out: tensor and image
    assert plan.traffic == 4 * 8 * 12 * (3 + 3 + (3 + 8) + (8 + 3) + 3 + 3)
    part = shares(plan, 0.5, Limits(1e6, 1e6))
    assert part.flops == 4 * living * 8 * 12
    assert part.of_flops == pytest.approx(part.flops / 1e6)
    assert part.of_bytes == pytest.approx(2 * plan.traffic / 1e6)
