"""Tasks: folders are read as pairs, degraded reproducibly, and refused where they do not fit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.resize import bicubic_downsample
from thinlens.images.writing import write_png
from thinlens.tasks import TASKS, make_task
from thinlens.tasks.folders import open_pairs, read_pair, training_crops
from thinlens.tasks.task import MetricProtocol

SR, GREY = make_task("sr"), make_task("denoise")


def save(path: Path, height: int = 24, width: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (channels, height, width), generator=noise).to(torch.uint8)
    write_png(path, image)
    return image


@pytest.mark.parametrize("name", TASKS)
def test_a_task_round_trips_through_its_fields(name: str) -> None:
    task = make_task(name)
    assert make_task(name, **asdict(task)) == task
    assert task.name == name


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("sharpen", {}, "unknown task 'sharpen'"),
        ("sr", {"factor": 2}, "no option 'factor'"),
        ("sr", {"scale": "2"}, "scale of task sr is '2': wanted int"),
        ("sr", {"scale": True}, "wanted int"),
        ("sr", {"scale": 5}, "--scale 5: wanted 2, 3 or 4"),
        ("denoise", {"sigma": 0.0}, "--sigma 0.0"),
        ("denoise", {"sigma": float("nan")}, "--sigma nan"),
        ("denoise", {"channels": 2}, "2 channels"),
        ("deblur", {"channels": 2}, "2 channels"),
        ("deblur", {"reach": 0}, "reach 0: wanted 1 pixel"),
        ("deblur", {"gamma": float("inf")}, "gamma inf"),
    ],
)
def test_a_wrong_task_is_refused(name: str, options: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make_task(name, **options)


def test_each_task_states_its_protocol() -> None:
    assert make_task("sr", scale=3).protocol == MetricProtocol("Y", crop=3)
    assert GREY.protocol == MetricProtocol("grey", crop=0)
    assert make_task("denoise", channels=3).protocol == MetricProtocol("RGB", crop=0)
    assert make_task("deblur").protocol == MetricProtocol("RGB", crop=0)


@given(st.integers(2, 4), st.integers(8, 30), st.integers(8, 30))
def test_aligned_images_are_whole_multiples_of_their_inputs(
    scale: int, height: int, width: int
) -> None:
    task = make_task("sr", scale=scale)
    clean = torch.zeros(3, height, width, dtype=torch.uint8)
    large, small = task.align(clean), task.downscale(clean)
    assert large.shape == (3, small.shape[1] * scale, small.shape[2] * scale)


def test_noise_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    clean = save(tmp_path / "a.png", channels=1)
    (pair,) = open_pairs(tmp_path, GREY)
    image, target = read_pair(pair, GREY, index=3, seed=7)
    noise = np.random.default_rng([7, 3]).standard_normal((1, 24, 32)) * 25
    expected = (clean.numpy() + noise) / 255
    assert torch.equal(target, clean)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-6)
    assert image.min() < 0  # never clipped
    assert image.max() > 1
    other, _ = read_pair(pair, GREY, index=4, seed=7)
    assert not torch.equal(other, image)


def test_clean_images_alone_are_degraded(tmp_path: Path) -> None:
    large = save(tmp_path / "deep" / "a.png", 26, 33)
    save(tmp_path / "b.png")
    pairs = open_pairs(tmp_path, SR)
    assert [pair.name for pair in pairs] == ["b", "deep/a"]
    image, target = read_pair(pairs[1], SR, index=0, seed=0)
    assert torch.equal(target, large[:, :24, :32])
    assert torch.equal((image * 255).round().to(torch.uint8), bicubic_downsample(large, 4))


LAYOUT_NAMES = {
    ("LR", "HR"): ("a", "a"),
    ("LR", "HR "): ("ax4", "a"),
    ("input", "target"): ("a", "a"),
    ("blur", "sharp"): ("deep/a", "deep/a"),
    ("hazy", "gt"): ("a_1_0.9", "a"),
}


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("parent", ["", "x4"])
def test_layouts_pair_by_name(layout: tuple[str, str], parent: str, tmp_path: Path) -> None:
    inputs, targets = (tmp_path / parent / folder.strip() for folder in layout)
    input_name, target_name = LAYOUT_NAMES[layout]
    save(inputs / f"{input_name}.png", 6, 8)
    save(targets / f"{target_name}.png")
    (pair,) = open_pairs(tmp_path, SR)
    assert (pair.name, pair.input) == (input_name, inputs / f"{input_name}.png")
    assert pair.target == targets / f"{target_name}.png"


def test_several_hazy_images_share_a_target(tmp_path: Path) -> None:
    task = make_task("denoise", channels=3)
    for name in ("hazy/1_1", "hazy/1_2", "gt/1"):
        save(tmp_path / f"{name}.png")
    assert [pair.target.name for pair in open_pairs(tmp_path, task)] == ["1.png", "1.png"]


def test_unpaired_files_are_listed_in_one_sentence(tmp_path: Path) -> None:
    save(tmp_path / "LR" / "a.png", 6, 8)
    save(tmp_path / "LR" / "b.png", 6, 8)
    save(tmp_path / "LR" / "c.png", 6, 7)
    for name in ("a", "c", "d"):
        save(tmp_path / "HR" / f"{name}.png")
    with pytest.raises(UsageError) as refusal:
        open_pairs(tmp_path, SR)
    sentence = str(refusal.value)
    assert "LR has no HR for b" in sentence
    assert "HR has no LR for d" in sentence
    assert "HR is not 4 times as large as LR for c" in sentence
    assert "\n" not in sentence


def test_inputs_of_pairs_are_not_degraded(tmp_path: Path) -> None:
    noisy = save(tmp_path / "input" / "a.png", channels=1, seed=1)
    save(tmp_path / "target" / "a.png", channels=1, seed=2)
    (pair,) = open_pairs(tmp_path, GREY)
    image, _ = read_pair(pair, GREY, index=0, seed=0)
    assert torch.equal((image * 255).round().to(torch.uint8), noisy)
    crops = training_crops(GREY, tmp_path, patch=24, batch_size=2)
    batch, _ = crops.batch(0, 0, 0)
    assert ((batch * 255 - (batch * 255).round()).abs() < 1e-4).all()


def test_an_image_smaller_than_the_scale_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 3, 9)
    (pair,) = open_pairs(tmp_path, SR)
    with pytest.raises(UsageError, match=r"a\.png is smaller than 4x4"):
        read_pair(pair, SR, index=0, seed=0)


def test_training_lists_every_unreadable_image(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 40, 40)
    for name in ("b.png", "c.jpg"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(UsageError, match=r"2 training images are unusable: .*b\.png.*c\.jpg"):
        training_crops(SR, tmp_path, patch=8)


def test_training_reads_clean_and_paired_folders_alike(tmp_path: Path) -> None:
    large = save(tmp_path / "clean" / "a.png", 42, 43)
    write_png(tmp_path / "pairs" / "HR" / "a.png", large)
    write_png(tmp_path / "pairs" / "LR" / "a.png", bicubic_downsample(large, 4))
    clean = training_crops(SR, tmp_path / "clean", patch=8, batch_size=2)
    paired = training_crops(SR, tmp_path / "pairs", patch=8, batch_size=2)
    for x, y in zip(clean.batch(1, 2, 3), paired.batch(1, 2, 3), strict=True):
        assert torch.equal(x, y)


def test_a_grey_task_trains_on_colour_photographs(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 20, 20, channels=3)
    image, target = training_crops(GREY, tmp_path, patch=16, batch_size=2).batch(0, 0, 0)
    assert image.shape == target.shape == (2, 1, 16, 16)


@pytest.mark.needs_data
def test_a_grey_image_of_set14_is_read_as_rgb(data: Path) -> None:
    pairs = open_pairs(data / "sr_test" / "Set14", SR)
    assert len(pairs) == 14
    image, target = read_pair(pairs[2], SR, index=2, seed=0)
    assert len(image) == len(target) == 3
    assert all(torch.equal(target[0], channel) for channel in target)
