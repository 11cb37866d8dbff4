"""Synthetic rain and haze follow their models, are reproducible, and are reported as synthetic."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cli_cases import images, run
from thinlens.api import save
from thinlens.errors import UsageError
from thinlens.images.writing import write_png
from thinlens.models import create
from thinlens.restoration.evaluation import evaluate
from thinlens.tasks import make_task
from thinlens.tasks.dehazing import AIRLIGHT, SCATTERING, random_depth
from thinlens.tasks.deraining import line_kernel, random_streaks
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.task import MetricProtocol

DERAIN, DEHAZE = make_task("derain"), make_task("dehaze")
SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 999)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("task", [DERAIN, DEHAZE], ids=["derain", "dehaze"])
@given(height=SIZES, width=SIZES, seed=SEEDS)
def test_weather_depends_on_the_seed_alone(
    task: object, height: int, width: int, seed: int
) -> None:
    assert task in (DERAIN, DEHAZE)
    weather = DERAIN if task is DERAIN else DEHAZE
    clean = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    bad = weather.corrupt(clean, generator(seed))
    assert bad.shape == clean.shape
    assert bad.dtype == torch.float32
    assert 0 <= bad.min() <= bad.max() <= 1
    assert torch.equal(bad, weather.corrupt(clean, generator(seed)))
    assert weather.protocol == MetricProtocol("RGB", crop=0)


@given(SEEDS)
def test_rain_only_adds_the_same_light_to_all_channels(seed: int) -> None:
    clean = torch.full((3, 32, 48), 0.2)
    bad = DERAIN.corrupt(clean, generator(seed))
    assert (bad >= clean).all()
    assert torch.equal(bad[0], bad[1])
    expected = (clean + random_streaks(32, 48, generator(seed))).clamp(max=1)
    assert torch.equal(bad, expected)
    assert not torch.equal(bad, DERAIN.corrupt(clean, generator(seed + 1)))


@given(st.integers(4, 12), st.floats(-math.pi / 6, math.pi / 6))
def test_a_streak_is_a_line_of_its_slant(half: int, slant: float) -> None:
    length = 2 * half + 1
    kernel = line_kernel(length, slant)
    torch.testing.assert_close(kernel.sum(1), torch.ones(length, dtype=torch.float64))
    columns = torch.arange(length, dtype=torch.float64)
    centres = (kernel * columns).sum(1) - half  # the mean column of each row
    rows = columns - half
    torch.testing.assert_close(centres, rows * math.tan(slant), atol=1e-9, rtol=0)


@given(SEEDS, st.integers(2, 40), st.integers(2, 40))
def test_haze_obeys_its_model(seed: int, height: int, width: int) -> None:
    """Two clean images under one haze determine t and A: I1 - I2 = t (J1 - J2)."""
    black, white = torch.zeros(3, height, width), torch.ones(3, height, width)
    dark, light = DEHAZE.corrupt(black, generator(seed)), DEHAZE.corrupt(white, generator(seed))
    transmission = light - dark
    assert (transmission > 0).all()
    optical_depth = transmission.log().neg()
    assert SCATTERING[0] - 1e-4 <= optical_depth.max() <= SCATTERING[1] + 1e-4
    airlight = dark.double().sum() / (1 - transmission.double()).sum()
    assert AIRLIGHT[0] - 1e-3 <= airlight <= AIRLIGHT[1] + 1e-3
    torch.testing.assert_close(dark, airlight.float() * (1 - transmission), atol=1e-4, rtol=0)


@given(SEEDS)
def test_the_top_of_a_scene_is_farther_than_its_bottom(seed: int) -> None:
    far = random_depth(64, 48, generator(seed))
    assert far.shape == (1, 64, 48)
    assert (far.min(), far.max()) == (0, 1)
    assert far[0, :8].mean() > far[0, -8:].mean()


def picture(path: Path, height: int, width: int) -> None:
    write_png(path, torch.full((3, height, width), 90, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("inputs", "target"),
    [
        ("hazy/1400_1.png", "gt/1400.png"),
        ("hazy/1_1_0.90179.png", "clear/1.png"),
        ("rain/rain-001.png", "norain/norain-001.png"),
        ("rain/norain-001x2.png", "norain/norain-001.png"),
        ("input/1.png", "target/1.png"),
    ],
)
def test_files_of_the_data_sets_are_paired(inputs: str, target: str, tmp_path: Path) -> None:
    for name in (inputs, target):
        picture(tmp_path / name, 20, 24)
    (pair,) = open_pairs(tmp_path, DERAIN)
    assert (pair.input, pair.target) == (tmp_path / inputs, tmp_path / target)


def test_a_larger_target_is_cropped_on_request(tmp_path: Path) -> None:
    picture(tmp_path / "hazy" / "1400_1.png", 20, 24)
    picture(tmp_path / "gt" / "1400.png", 40, 44)
    with pytest.raises(UsageError, match="gt is not exactly as large as hazy for 1400_1"):
        open_pairs(tmp_path, DEHAZE)
    task = make_task("dehaze", crop_target=10)
    (pair,) = open_pairs(tmp_path, task)
    image, target = read_pair(pair, task, 0, 0)
    assert image.shape == target.shape == (3, 20, 24)
    with pytest.raises(UsageError, match="--crop-target -1"):
        make_task("dehaze", crop_target=-1)


def test_metrics_on_synthetic_weather_are_reported_as_synthetic(tmp_path: Path) -> None:
    images(tmp_path / "clean", height=32, width=40)
    synthetic = evaluate(nn.Identity(), DERAIN, tmp_path / "clean")
    assert synthetic.as_json()["protocol"]["input"] == "synthetic rain"
    for folder in ("input", "target"):
        images(tmp_path / "pairs" / folder, height=32, width=40)
    real = evaluate(nn.Identity(), DERAIN, tmp_path / "pairs").as_json()
    assert "input" not in real["protocol"]


def test_the_command_line_reports_synthetic(tmp_path: Path) -> None:
    images(tmp_path / "clean", height=32, width=40)
    torch.manual_seed(0)
    network = create("gcanet", width=4)
    save(tmp_path / "net", network, model="gcanet", task=DEHAZE)
    ran = run("evaluate", tmp_path / "net", "--data", tmp_path / "clean")
    assert "inputs made by synthetic haze of 2 clean images, seed 0" in ran.out
    ran = run("evaluate", tmp_path / "net", "--data", tmp_path / "clean", "--json")
    assert json.loads(ran.out)["protocol"]["input"] == "synthetic haze"


@pytest.mark.needs_data
def test_real_pairs_are_listed(data: Path) -> None:
    rain = open_pairs(data / "rain" / "Rain100L", DERAIN)
    assert len(rain) == 50
    assert all(pair.input is not None for pair in rain)
    samples = data / "haze" / "RESIDE_samples"
    assert len(open_pairs(samples / "ITS_v2", DEHAZE)) == 4
    assert len(open_pairs(samples / "SOTS", make_task("dehaze", crop_target=10))) == 4
    with pytest.raises(UsageError, match="not exactly as large"):
        open_pairs(samples / "SOTS", DEHAZE)
