"""Whole networks in int16 and in the fastest precision: near float32, ranges measured or stored."""

from __future__ import annotations

import copy
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thinlens
from cli_cases import images, run, sr_checkpoint
from native_engine import BF16, KERNELS, built
from test_engine import NETWORKS, Odd, tiny
from thinlens import engine
from thinlens.engine import plan as plan_module
from thinlens.engine import stream
from thinlens.engine import tuner as tuner_module
from thinlens.engine.compiled import Compiled
from thinlens.engine.first_image import FirstImageEngine, psnr_to, select_precision
from thinlens.engine.graph import Size
from thinlens.engine.heuristic import Heuristic
from thinlens.engine.input_ranges import (
    input_range_entry,
    measure_input_ranges,
    read_input_ranges,
)
from thinlens.engine.kernel_choice import INT16, is_int16, kernel_name
from thinlens.engine.ops.conv import ConvParams
from thinlens.engine.plan import INPUT_HEADROOM
from thinlens.engine.selected_engine import SelectedEngine
from thinlens.errors import UsageError
from thinlens.images.reading import read_image
from thinlens.models import MODELS, create
from thinlens.restoration.evaluation import evaluate
from thinlens.restoration.receptive_field import measure_receptive_field
from thinlens.tasks import make_task

pytestmark = built


def sparse_int16(params: ConvParams, row_vectors: int, rows: int) -> int:
    return INT16 + params.in_channels


def dense_int16(params: ConvParams, row_vectors: int, rows: int) -> int:
    return INT16


def block() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.PReLU(16), nn.Conv2d(16, 12, 3, padding=1)
    ).eval()


@pytest.mark.parametrize("selector", [sparse_int16, dense_int16])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_what_float32_gives(
    name: str, selector: tuner_module.KernelSelector
) -> None:
    module = tiny(name)
    inputs = [torch.rand(2, MODELS[name].channels, *size) for size in [(1, 1), (19, 37)]]
    ranges = measure_input_ranges(module, inputs)
    fast = Compiled(module, 2, KERNELS[-1], selector, input_ranges=ranges)
    for image in inputs:
        with torch.inference_mode():
            expected = module(image)
        got = fast(image)
        largest = expected.abs().max().clamp(min=1.0)
        assert (got - expected).abs().max() <= 2e-3 * largest
    assert fast.precision == "int16" and fast.saturated == 0


def test_an_odd_network_runs_every_kernel() -> None:
    torch.manual_seed(0)
    module = Odd().eval()
    image = torch.randn(1, 2, 21, 70)
    fast = Compiled(
        module, 1, None, sparse_int16, input_ranges=measure_input_ranges(module, [image])
    )
    with torch.inference_mode():
        assert psnr_to(module(image), fast(image)) > 50
    (plan,) = fast._plans.values()
    assert any(is_int16(kernel) for kernel in plan.kernels.values())


def test_ranges_are_those_that_the_layers_read() -> None:
    module, image = block(), torch.rand(1, 3, 30, 40) * 3
    first, activation, _ = module
    with torch.inference_mode():
        read = activation(first(image)).abs().max()
    largest = {"0": float(image.max()), "2": float(read)}
    assert measure_input_ranges(module, [image]) == pytest.approx(largest, rel=1e-5)
    both = measure_input_ranges(module, [image, 2 * image])
    assert both == measure_input_ranges(module, [2 * image])


def test_large_images_are_measured_in_crops() -> None:
    image = torch.zeros(1, 1, 700, 900)
    image[0, 0, 500, 700] = -5.0  # in the middle of a quarter
    image[0, 0, 350, 450] = 9.0  # in none
    assert measure_input_ranges(nn.Sequential(nn.Conv2d(1, 1, 1)), [image]) == {"0": 5.0}


def test_saturated_values_are_counted_over_all_images() -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)).eval()
    fast = Compiled(module, 1, None, sparse_int16, input_ranges={"0": 1.0})
    image = torch.zeros(1, 1, 9, 21)
    image[0, 0, 3, 4:6] = 2 * INPUT_HEADROOM
    for count in (2, 4):
        fast(image)
        assert fast.saturated == count
    fast(torch.cat([image] * 2))
    assert fast.saturated == 8
    assert fast.precision_report() == {
        "precision": "int16",
        "ranges": "the checkpoint",
        "saturated": 8,
    }


def test_layers_without_a_range_run_in_float32() -> None:
    fast = Compiled(block(), 1, None, sparse_int16, input_ranges={"0": 1.0})
    fast(torch.rand(1, 3, 20, 30))
    (plan,) = fast._plans.values()
    assert [kernel_name(kernel).startswith("int16") for kernel in plan.kernels.values()] == [
        True,
        False,
    ]


def test_the_tuner_takes_int16_where_it_is_faster(tmp_path: Path) -> None:
    params = ConvParams(torch.randn(64, 64, 3, 3).numpy(), torch.zeros(64).numpy(), 1, 1, 1)

    def timer(_: ConvParams, __: int, choices: list[int]) -> list[float]:
        return [1.0 if choice == INT16 + 64 else 2.0 for choice in choices]

    for int16, choice in [(True, INT16 + 64), (False, 0)]:
        cache = tuner_module.TimingCache(tmp_path / f"{int16}.json")
        tuner = tuner_module.Tuner("test", timer, cache, Heuristic(int16=int16))
        assert tuner(params, 20, 180) == choice
        reread = tuner_module.TimingCache(tmp_path / f"{int16}.json")
        again = tuner_module.Tuner("test", lambda *_: [], reread, Heuristic(int16=int16))
        assert again(params, 20, 180) == choice


def test_the_first_image_settles_int16(caplog: pytest.LogCaptureFixture) -> None:
    module, image = block(), torch.rand(1, 3, 40, 50)
    fast = engine.compile(module, precision="int16", threads=1)
    assert isinstance(fast, FirstImageEngine) and fast.precision == "fp32"
    assert isinstance(copy.deepcopy(fast), FirstImageEngine)
    with caplog.at_level(logging.INFO):
        first = fast(image)
    assert [record.message for record in caplog.records] == [
        "precision int16: the ranges were measured on the first image"
    ]
    assert fast.precision == "int16"
    assert psnr_to(module(image), first) > 60
    ranges = measure_input_ranges(module, [image])
    stored = engine.compile(module, precision="int16", threads=1, input_ranges=ranges)
    assert isinstance(stored, Compiled) and stored.precision == "int16"
    assert torch.equal(stored(image), first)
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert copied.precision == "int16"
        assert torch.equal(copied(image), first)
    assert fast.in_float32().precision == "fp32"


def test_fast_is_the_fastest_of_those_that_are_exact(caplog: pytest.LogCaptureFixture) -> None:
    seconds = {"fp32": 3.0, "bf16": 1.0, "int16": 2.0}
    assert select_precision(seconds, {"bf16": 48.0, "int16": 70.0}) == ("int16", 70.0)
    assert select_precision(seconds, {"bf16": 61.0, "int16": 70.0}) == ("bf16", 61.0)
    assert select_precision(seconds, {"bf16": 48.0, "int16": 59.0}) == ("fp32", None)
    module, image = block(), torch.rand(1, 3, 40, 50)
    fast = engine.compile(module, precision="fast", threads=1)
    with caplog.at_level(logging.INFO):
        result = fast(image)
    (line,) = [record.message for record in caplog.records]
    assert line.startswith(f"precision fast: {fast.precision} runs")
    assert psnr_to(module(image), result) > 60


def test_an_engine_of_torch_has_no_other_precision() -> None:
    with pytest.raises(UsageError, match="precision 'int16': torch runs fp32"):
        SelectedEngine("torch", precision="int16")
    with pytest.raises(UsageError, match="'int8': wanted fp32, bf16, int16 or fast"):
        SelectedEngine("native", precision="int8")


@pytest.mark.parametrize(
    "stored", [{"a": "1"}, {"a": -1.0}, {"a": float("nan")}, {"a": float("inf")}, [1.0], None]
)
def test_damaged_ranges_are_measured_anew(stored: object) -> None:
    assert read_input_ranges({"input_ranges": stored}) is None


@pytest.mark.needs_data
def test_the_shipped_network_loses_nothing(data: Path) -> None:
    """All its convolutions in int16, their ranges those of the first image."""
    checkpoint = thinlens.load("rfdn-x4")
    task, folder = make_task("sr", scale=4), data / "sr_test" / "Set5" / "x4"
    first = read_image(folder / "LR" / "img_001.png")[None] / 255
    ranges = measure_input_ranges(checkpoint.module, [first])
    exact = evaluate(Compiled(checkpoint.module, 1, None, Heuristic()), task, folder)
    fast = Compiled(checkpoint.module, 1, None, sparse_int16, input_ranges=ranges)
    rounded = evaluate(fast, task, folder)
    assert rounded.psnr == pytest.approx(exact.psnr, abs=0.005)
    assert fast.saturated == 0


@pytest.mark.skipif(not BF16, reason="this CPU has no AVX512_BF16")
def test_bf16_is_a_precision_of_its_own() -> None:
    fast = engine.compile(block(), precision="bf16")
    assert isinstance(fast, Compiled) and fast.precision == "bf16"


def test_the_result_is_a_tensor_of_float32() -> None:
    result: Tensor = engine.compile(block(), precision="int16")(torch.rand(1, 3, 8, 8))
    assert result.dtype == torch.float32


def test_pruning_stores_the_ranges_of_its_data(tmp_path: Path) -> None:
    module = create("dncnn-17", depth=3, width=8).eval()
    inputs = [torch.rand(1, 24, 24) for _ in range(4)]
    pruned = thinlens.prune(module, budget="1/2", method="least-squares", m=4, data=inputs)
    thinlens.save(tmp_path / "thin", pruned, model="dncnn-17", task=make_task("denoise"))
    checkpoint = thinlens.load(tmp_path / "thin")
    ranges = read_input_ranges(checkpoint.provenance)
    assert ranges == pruned.record["input_ranges"]
    expected = measure_input_ranges(pruned.module, [x[None] for x in inputs])
    assert ranges == pytest.approx(expected, rel=1e-3)
    fast = thinlens.compile(checkpoint, precision="int16")
    assert isinstance(fast, Compiled) and fast.precision == "int16"
    alone = thinlens.prune(module, budget="1/2", method="one-shot", m=4, size=(32, 32))
    assert read_input_ranges(alone.record) is None
    fast = thinlens.compile(alone, precision="int16")
    assert isinstance(fast, FirstImageEngine)


def test_a_network_that_the_engine_does_not_run_has_no_ranges() -> None:
    assert input_range_entry(nn.Sequential(nn.Fold(2, 1)), [torch.rand(1, 1, 4, 4)], 1) == {}


def test_commands_take_a_precision(tmp_path: Path) -> None:
    model, photographs = sr_checkpoint(tmp_path / "sr"), images(tmp_path / "photos", 1, 40, 48)
    words = ("--model", model, "--engine", "native", "--out")
    for precision in ("int16", "fast"):
        ran = run("restore", photographs, *words, tmp_path / precision, "--precision", precision)
        assert ran.status == 0 and f"precision {precision}: " in ran.out
    chosen = ("--precision", "int16", "--json")
    ran = run("restore", photographs, *words, tmp_path / "json", *chosen)
    assert ran.json["precision"] == {
        "requested": "int16",
        "precision": "int16",
        "ranges": "the first image",
        "saturated": 0,
    }
    ran = run("evaluate", model, "--data", photographs, "--engine", "native", *chosen)
    assert ran.json["precision"]["precision"] == "int16"
    ran = run(
        "restore", photographs, "--model", model, "--out", tmp_path / "no", "--precision", "x"
    )
    assert ran.status == 2 and "wanted fp32, bf16, int16 or fast" in ran.err


def test_bands_blocks_and_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = [layer for _ in range(3) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(8))]
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), *wide, nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)
    ).eval()
    image = torch.rand(1, 3, 45, 90)
    ranges = measure_input_ranges(module, [image])
    for selector in (sparse_int16, dense_int16):
        monkeypatch.setattr(stream, "CACHE_BYTES", 0)
        whole = Compiled(module, 1, None, selector, input_ranges=ranges)(image)
        monkeypatch.undo()
        for rows, threads in ((1, 2), (3, 1), (5, 3)):
            monkeypatch.setattr(stream, "MIN_BLOCK_ROWS", rows)
            streamed = Compiled(module, threads, None, selector, input_ranges=ranges)
            assert torch.equal(streamed(image), whole)
        monkeypatch.setattr(plan_module, "BAND_BYTES", 0)
        monkeypatch.setattr(plan_module, "BAND_ROWS", 5)
        banded = Compiled(module, 2, None, selector, input_ranges=ranges)
        assert torch.equal(torch.cat(list(banded.bands(image)), dim=2), whole)
        monkeypatch.undo()


def test_bands_settle_the_precision_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "BAND_BYTES", 0)
    monkeypatch.setattr(plan_module, "BAND_ROWS", 5)
    image = torch.rand(1, 3, 47, 22)
    fast = FirstImageEngine(block(), 1, "int16")
    fast.plan(Size(3, 47, 22))  # as commands ask for the memory before they run
    bands = list(fast.bands(image))
    assert len(bands) > 1 and fast.precision == "int16"
    assert torch.equal(torch.cat(bands, dim=2), fast(image))


def test_measurements_of_the_network_do_not_settle_the_precision() -> None:
    fast = FirstImageEngine(block(), 1, "int16")
    assert measure_receptive_field(fast, channels=3).radius == 2
    assert fast.precision == "fp32"


def test_a_convolution_that_reads_far_or_has_no_finite_weight_has_no_int16() -> None:
    plain = ConvParams(torch.randn(4, 4, 3, 3).numpy(), torch.zeros(4).numpy(), 1, 1, 1)
    far = replace(plain, padding=64, dilation=64)
    infinite = replace(plain, weight=plain.weight * np.float32(np.inf))
    chosen = [
        any(is_int16(choice) for choice in tuner_module.candidates(params, int16=True))
        for params in (plain, far, infinite)
    ]
    assert chosen == [True, False, False]
