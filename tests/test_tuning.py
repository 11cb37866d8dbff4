"""Kernel selection: the fastest by measurement, cached whatever the cache file holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from native_engine import BF16, KERNELS, built
from thinlens.engine import kernel_policy as policy_module
from thinlens.engine import timings as timings_module
from thinlens.engine.compiled import Compiled
from thinlens.engine.graph import Size
from thinlens.engine.heuristic import AVX512_LIMITS, LIMITS, PAIRS_SPEED, Heuristic
from thinlens.engine.kernel_choice import DENSE, INT16, WINOGRAD
from thinlens.engine.kernel_policy import KernelMeasurement, KernelPolicy, MeasuringSelector
from thinlens.engine.kernel_report import measure_kernels
from thinlens.engine.native import fastest
from thinlens.engine.ops.conv import ConvParams
from thinlens.engine.timings import TimingCache
from thinlens.engine.tuner import Tuner, candidates, strip_seconds

ROWS = 200
heuristic, int16_heuristic = Heuristic("cpu"), Heuristic("avx512_vnni", int16=True)


def conv(part: float = 0.5, channels: int = 32, stride: int = 1) -> ConvParams:
    drawn = np.random.default_rng(0)
    weight = drawn.standard_normal((32, channels, 3, 3)).astype(np.float32)
    weight[drawn.random(weight.shape) >= part] = 0
    return ConvParams(weight, np.zeros(32, np.float32), 1, stride, 1)


class Stopwatch:
    """Returns fixed times, and counts its calls."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.seconds, self.calls = seconds, 0

    def __call__(self, params: ConvParams, row_vectors: int, choices: Sequence[int]) -> list[float]:
        self.calls += 1
        return list(self.seconds[: len(choices)])


@given(st.lists(st.floats(1e-6, 1.0), min_size=4, max_size=4, unique=True))
def test_the_fastest_is_chosen_and_measured_once(seconds: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timings_module, "write_json", lambda path, content, indent: None)
        watch = Stopwatch(seconds)
        choose = Tuner("cpu", watch, TimingCache(Path("/nowhere/kernels.json")), heuristic)
        chosen = {choose(conv(), 40, ROWS) for _ in range(3)}
    assert chosen == {candidates(conv())[int(np.argmin(seconds))]}
    assert watch.calls == 1


@given(st.lists(st.floats(1e-6, 1.0), min_size=4, max_size=4, unique=True))
def test_the_fastest_dense_kernel_multiplies_by_zeros_too(seconds: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timings_module, "write_json", lambda path, content, indent: None)
        tuner = Tuner(
            "cpu", Stopwatch(seconds), TimingCache(Path("/nowhere/kernels.json")), heuristic
        )
        by_choice = dict(zip(candidates(conv()), seconds, strict=True))
        fastest_dense = min((DENSE, WINOGRAD), key=by_choice.__getitem__)
        assert tuner.dense(conv(), 40, ROWS) == fastest_dense
        assert tuner.dense(conv(0.1, channels=3), 5, 1) == DENSE


def test_another_process_reads_what_the_first_measured(tmp_path: Path) -> None:
    first, second = Stopwatch([4.0, 3.0, 2.0, 1.0]), Stopwatch([1.0, 2.0, 3.0, 4.0])
    path = tmp_path / "thinlens" / "kernels.json"
    one = Tuner("cpu", first, TimingCache(path), heuristic)(conv(), 40, ROWS)
    two = Tuner("cpu", second, TimingCache(path), heuristic)(conv(), 40, ROWS)
    assert one == two and (first.calls, second.calls) == (1, 0)
    Tuner("other cpu", second, TimingCache(path), heuristic)(conv(), 40, ROWS)
    Tuner("cpu", second, TimingCache(path), heuristic)(conv(0.1), 40, ROWS)
    assert second.calls == 2


def test_two_processes_do_not_forget_each_other(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    one, two = TimingCache(path), TimingCache(path)
    assert one.get("a", [0]) is None and two.get("b", [0]) is None
    one.add("a", {0: 1.0})
    two.add("b", {0: 2.0})
    assert set(json.loads(path.read_text())) == {"a", "b"}


def test_the_file_is_read_again_only_where_another_process_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of keys take a tenth of a second to read, once for each measured layer."""
    reads: list[Path] = []

    def counted(path: Path) -> dict[str, dict[int, float]]:
        reads.append(path)
        return read(path)

    read = timings_module._read
    monkeypatch.setattr(timings_module, "_read", counted)
    path = tmp_path / "kernels.json"
    one, two = TimingCache(path), TimingCache(path)
    for key in "abc":
        one.add(key, {0: 1.0})
    assert len(reads) == 1
    two.add("d", {0: 2.0})
    one.add("e", {0: 2.0})
    assert len(reads) == 3
    assert set(json.loads(path.read_text())) == set("abcde")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b"[" * 100_000,
        b'{"a": 3}',
        b'{"a": {"0": "fast"}}',
        b'{"a": {"0": NaN}}',
        b'{"a": {"0": -1.0}}',
        b'{"a": {"x": 1.0}}',
        b'{"a": {"' + b"9" * 5000 + b'": 1.0}}',
        b'{"a": {"7": 1.0}}',
    ],
)
def test_damaged_notes_are_measured_again(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    path.write_bytes(content)
    timings = TimingCache(path)
    assert timings.get("a", [0]) is None
    timings.add("a", {0: 1.0})
    assert TimingCache(path).get("a", [0]) == {0: 1.0}


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    timings = TimingCache(tmp_path / "file" / "kernels.json")
    timings.add("a", {0: 1.0})
    assert timings.get("a", [0]) == {0: 1.0}


def test_the_oldest_notes_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings_module, "MAX_CACHED_KEYS", 3)
    timings = TimingCache(tmp_path / "kernels.json")
    for name in "abcde":
        timings.add(name, {0: 1.0})
    assert list(json.loads((tmp_path / "kernels.json").read_text())) == ["c", "d", "e"]


def test_notes_lie_in_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert timings_module.cache_folder() == tmp_path / "thinlens"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert timings_module.cache_folder() == Path.home() / ".cache" / "thinlens"


def test_small_convolutions_are_not_measured() -> None:
    watch = Stopwatch([1.0])
    choose = Tuner("cpu", watch, TimingCache(Path("/nowhere/kernels.json")), heuristic)
    assert choose(conv(0.9), 5, 1) == heuristic(conv(0.9), 5, 1) == WINOGRAD
    assert heuristic(conv(0.9, stride=2), 5, 1) == DENSE
    assert heuristic(conv(0.9, channels=3), 5, 1) == DENSE
    assert heuristic(conv(0.9, channels=64, stride=2), 200, ROWS) == 16  # beyond the cache
    assert watch.calls == 0


def policy(monkeypatch: pytest.MonkeyPatch, watch: Stopwatch, folder: Path) -> KernelPolicy:
    """A policy on an empty cache, with the times of `watch`."""
    tuner = Tuner("cpu", watch, TimingCache(folder / "kernels.json"), heuristic)
    monkeypatch.setattr(policy_module, "tuner", lambda *_, **__: tuner)
    return KernelPolicy("cpu", int16=False)


def test_the_first_images_run_by_heuristic_and_measuring_begins_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO")
    watch = Stopwatch([4.0, 3.0, 1.0, 2.0])
    choose = policy(monkeypatch, watch, tmp_path)
    assert choose.selection == ""
    first = [choose(conv(), 40, ROWS) for _ in range(2)]
    assert first == [heuristic(conv(), 40, ROWS)] * 2 and watch.calls == 0
    assert choose.selection == "heuristic"
    assert caplog.text.count("by heuristic") == 1
    assert not choose.begins_to_measure()
    monkeypatch.setattr(policy_module, "MEASURE_AFTER", 0.0)
    with choose.running():
        pass
    assert [choose.begins_to_measure() for _ in range(2)] == [True, False]
    assert choose(conv(), 40, ROWS) == 16 and watch.calls == 1
    assert choose.selection == "measured"


def test_what_is_measured_or_small_is_no_guess(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    choose = policy(monkeypatch, Stopwatch([4.0, 3.0, 1.0, 2.0]), tmp_path)
    choose._tuner(conv(), 40, ROWS)
    choose(conv(), 5, 1)
    assert choose.selection == "heuristic"  # of a convolution that no measurement is worth
    assert choose(conv(), 40, ROWS) == 16
    assert choose.selection == "tuned"
    monkeypatch.setattr(policy_module, "MEASURE_AFTER", -1.0)
    assert not choose.begins_to_measure()
    choose(conv(0.3), 40, ROWS)
    assert choose.selection == "heuristic"


def test_the_loss_of_the_heuristic_is_that_of_its_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watch = Stopwatch([4.0, 3.0, 1.0, 2.0])  # dense, sparse, grouped, Winograd
    policy(monkeypatch, watch, tmp_path)
    select = MeasuringSelector("cpu", int16=False)
    assert select(conv(), 40, ROWS) == select(conv(0.1), 40, ROWS) == 16
    assert select(conv(0.1), 5, 1) == 32  # too small to be measured
    fast, sparse = heuristic(conv(), 40, ROWS), heuristic(conv(0.1), 40, ROWS)
    seconds = dict(zip(candidates(conv()), watch.seconds, strict=True))
    loss = (seconds[fast] + seconds[sparse]) / 2 - 1
    assert select.measurement() == KernelMeasurement(2, 2, pytest.approx(loss))


KERNEL_SETS = ["", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "neon"]


@given(
    st.sampled_from(KERNEL_SETS),
    st.booleans(),
    st.floats(0.01, 1.0),
    st.integers(1, 40),
    st.sampled_from([1, 2]),
)
def test_the_heuristic_takes_candidates(
    kernels: str, int16: bool, part: float, channels: int, stride: int
) -> None:
    params = conv(part, channels, stride)
    select = Heuristic(kernels, int16)
    assert select(params, 40, ROWS) in candidates(params, int16=int16)
    assert select.dense(params, 40, ROWS) in (DENSE, WINOGRAD)


@pytest.mark.parametrize("kernels", KERNEL_SETS)
def test_once_dense_is_faster_more_weights_do_not_change_it(kernels: str) -> None:
    select = Heuristic(kernels)
    is_dense = [select(conv(part / 16), 40, ROWS) == WINOGRAD for part in range(1, 17)]
    assert is_dense == sorted(is_dense) and is_dense[-1] and not is_dense[1]


def test_the_heuristic_of_int16() -> None:
    assert int16_heuristic(conv(0.9), 40, ROWS) == WINOGRAD
    assert int16_heuristic(conv(0.9, stride=2), 40, ROWS) == INT16 + DENSE
    assert int16_heuristic(conv(0.2), 40, ROWS) == INT16 + 32
    assert int16_heuristic(conv(0.01), 40, ROWS) == 32  # the conversion would take longer


def test_transforms_shared_by_more_channels_pay_earlier() -> None:
    """The measured limits: 1/4 is sparse at 32 channels, Winograd's at 64."""
    limits = [AVX512_LIMITS.winograd_density(channels, channels) for channels in (32, 64, 128)]
    assert limits == sorted(limits, reverse=True)
    assert limits[0] > 8 / 32 > limits[1] > 6 / 32
    assert PAIRS_SPEED * limits[1] > 8 / 32  # sparse in int16
    assert 10 / 32 < LIMITS.winograd_density(64, 64) < 12 / 32


@built
def test_an_engine_plans_anew_with_measured_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watch = Stopwatch([4.0, 3.0, 1.0, 2.0])
    tuner = Tuner("cpu", watch, TimingCache(tmp_path / "kernels.json"), heuristic)
    monkeypatch.setattr(policy_module, "tuner", lambda *_, **__: tuner)
    engine = Compiled(nn.Conv2d(32, 32, 3, padding=1).eval(), 1)
    image = torch.rand(1, 32, 40, 50)
    expected, kernels = engine(image), []
    for after in (20.0, 0.0):
        monkeypatch.setattr(policy_module, "MEASURE_AFTER", after)
        torch.testing.assert_close(engine(image), expected, rtol=1e-5, atol=1e-5)
        kernels += engine.plan(Size(32, 40, 50)).kernels.values()
    assert kernels == [WINOGRAD, 16] and watch.calls == 1
    measured = measure_kernels(engine, Size(32, 40, 50))
    assert (measured.convolutions, measured.changed, watch.calls) == (1, 1, 1)
    assert measured.heuristic_loss == pytest.approx(1.0)


@built
@pytest.mark.parametrize("stride", [1, 2])
def test_every_candidate_is_really_timed(stride: int) -> None:
    for isa in [*KERNELS, *BF16]:
        one = conv(channels=20, stride=stride)
        seconds = strip_seconds(isa, one, 8, candidates(one))
        assert len(seconds) == (4 if stride == 1 else 3) and all(0 < s < 10 for s in seconds)


@built
def test_a_plan_takes_the_choice_and_its_result_does_not_change() -> None:
    """Whatever is measured, a thin network's plan is at most its dense plan's time."""
    torch.manual_seed(0)
    module = nn.Conv2d(32, 32, 3, padding=1).eval()
    with torch.no_grad():
        module.weight[torch.rand_like(module.weight) < 0.5] = 0
    image = torch.rand(1, 32, 9, 11)
    outputs, calls = [], []
    for choice in (DENSE, WINOGRAD, 16, 32):

        def choose(params: ConvParams, row_vectors: int, rows: int, choice: int = choice) -> int:
            calls.append((params.layer, rows))
            return choice

        outputs.append(Compiled(module, 1, fastest(), choose)(image))
    assert calls == [("", 9)] * 4
    for output in outputs:
        torch.testing.assert_close(output, module(image).detach(), rtol=1e-5, atol=1e-5)
