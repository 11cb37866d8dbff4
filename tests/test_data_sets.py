"""SIDD, Köhler's photographs and Rain800 are read as they are unpacked, by their protocols."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.images.writing import write_png
from thinlens.restoration.evaluation import evaluate
from thinlens.tasks import make_task
from thinlens.tasks.folders import open_pairs, read_pair, training_crops
from thinlens.tasks.metrics import psnr
from thinlens.tasks.trajectory_metrics import best_over_trajectory, fit_to_target

DENOISE = make_task("denoise", channels=3)
DEBLUR, DERAIN, DEHAZE = (make_task(name) for name in ("deblur", "derain", "dehaze"))


def drawn(seed: int, height: int = 32, width: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(40, 200, (3, height, width), generator=generator, dtype=torch.uint8)


def sidd(folder: Path, *scenes: str) -> None:
    for scene in scenes:
        for number in ("010", "011"):
            for kind, shade in (("NOISY", 1), ("GT", 2)):
                path = folder / "Data" / scene / f"0001_{kind}_SRGB_{number}.PNG"
                write_png(path, torch.full((3, 20, 24), shade, dtype=torch.uint8))


def kohler(folder: Path, images: int = 2, shakes: int = 3, targets: int = 4) -> None:
    for image in range(1, images + 1):
        for shake in range(1, shakes + 1):
            write_png(folder / "BlurryImages" / f"Blurry{image}_{shake}.png", drawn(image))
            sharp = folder / f"Image{image}" / f"Kernel{shake}"
            for moment in range(1, targets + 1):
                name = f"GroundTruth{image}_{shake}_{moment}.png"
                write_png(sharp / name, drawn(10 * image + moment))


def side_by_side(path: Path, width: int = 40) -> None:
    left, right = drawn(1, width=width // 2), drawn(2, width=width - width // 2)
    write_png(path, torch.cat([left, right], dim=2))


def test_sidd_pairs_within_a_scene(tmp_path: Path) -> None:
    sidd(tmp_path, "0001_001_S6_00100_00060_3200_L", "0002_001_S6_00100_00020_3200_N")
    pairs = open_pairs(tmp_path, DENOISE)
    assert len(pairs) == 4
    for pair in pairs:
        assert pair.input is not None
        assert pair.input.parent == pair.target.parent
        assert pair.input.name.replace("NOISY", "GT") == pair.target.name
        assert pair.name == f"{pair.input.parent.name}/{pair.input.stem}"
    assert pairs == open_pairs(tmp_path, DENOISE, "train") == open_pairs(tmp_path / "Data", DENOISE)
    noisy, clean = training_crops(DENOISE, tmp_path, patch=8, batch_size=2).batch(0, 0, 0)
    assert torch.equal(noisy, torch.full((2, 3, 8, 8), 1 / 255))
    assert torch.equal(clean, torch.full((2, 3, 8, 8), 2 / 255))


def test_half_of_sidd_is_refused(tmp_path: Path) -> None:
    sidd(tmp_path, "a", "b")
    (tmp_path / "Data" / "b" / "0001_GT_SRGB_011.PNG").unlink()
    with pytest.raises(UsageError, match=r"_NOISY_SRGB_ has no _GT_SRGB_ for b/0001_NOISY_SRGB_01"):
        open_pairs(tmp_path, DENOISE)
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "ValidationNoisyBlocksSrgb.mat").touch()
    with pytest.raises(UsageError, match="wanted its blocks as images, in input and target"):
        open_pairs(tmp_path / "blocks", DENOISE)


def test_every_shake_has_all_its_targets(tmp_path: Path) -> None:
    kohler(tmp_path)
    pairs = open_pairs(tmp_path, DEBLUR)
    assert [pair.name for pair in pairs] == [
        f"BlurryImages/Blurry{image}_{shake}" for image in (1, 2) for shake in (1, 2, 3)
    ]
    for pair in pairs:
        numbers = pair.name.removeprefix("BlurryImages/Blurry")
        files = [pair.target, *pair.alternatives]
        assert sorted(x.stem for x in files) == [f"GroundTruth{numbers}_{n}" for n in range(1, 5)]
    with pytest.raises(UsageError, match="holds pairs to test with alone"):
        open_pairs(tmp_path, DEBLUR, "train")


def test_kohlers_photographs_without_targets_are_refused(tmp_path: Path) -> None:
    kohler(tmp_path, targets=0)
    with pytest.raises(UsageError, match="holds Blurry1_1 but no GroundTruth"):
        open_pairs(tmp_path, DEBLUR)
    kohler(tmp_path / "whole", images=1, shakes=1)
    write_png(tmp_path / "whole" / "Blurry1_2.png", drawn(0))
    with pytest.raises(UsageError, match=r"Blurry has no GroundTruth for Blurry1_2$"):
        open_pairs(tmp_path / "whole", DEBLUR)


@given(st.integers(-6, 6), st.integers(-6, 6), st.floats(0.5, 1.5))
def test_intensity_and_shift_are_fitted(down: int, right: int, gain: float) -> None:
    target = drawn(0).double()
    x, y = fit_to_target(gain * target.roll((down, right), (1, 2)), target)
    inside = [slice(6, 32 - 6), slice(6, 40 - 6)]
    scale = x[:, *inside] / y[:, *inside]
    assert scale.std() < 1e-9  # the same image, but for the pixels that rolled around
    assert abs(float(scale.mean()) - 1) < 0.3
    assert ((x == 0) == (y == 0)).all()


def test_the_best_target_counts_and_the_protocol_states_it(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    kohler(folder, images=1, shakes=1, targets=3)
    write_png(folder / "Image1" / "Kernel1" / "GroundTruth1_1_2.png", drawn(1).roll(2, 2))
    metrics = evaluate(nn.Identity(), DEBLUR, folder)
    targets = [drawn(11), drawn(1).roll(2, 2), drawn(13)]
    alone = [best_over_trajectory(drawn(1), [x], DEBLUR.protocol) for x in targets]
    assert metrics.psnr == max(psnr for psnr, _ in alone) == alone[1][0] > 20
    assert metrics.ssim == max(ssim for _, ssim in alone)
    assert psnr(drawn(1), targets[1], DEBLUR.protocol) < 15  # without fitting
    assert "the best of several" in metrics.as_json()["protocol"]["targets"]


def test_an_equal_target_is_perfect() -> None:
    same = best_over_trajectory(drawn(3), [drawn(3)], DEBLUR.protocol)
    assert same[0] == math.inf or same[0] > 200
    assert same[1] == pytest.approx(1)


def test_rain800_is_pairs_side_by_side(tmp_path: Path) -> None:
    for name in ("1", "2"):
        side_by_side(tmp_path / "training" / f"{name}.png")
    side_by_side(tmp_path / "test_syn" / "9.png")
    write_png(tmp_path / "test_nature" / "7.png", drawn(7))
    for split, names in (("train", ["1", "2"]), ("test", ["9"])):
        for place in (tmp_path, tmp_path / {"train": "training", "test": "test_syn"}[split]):
            pairs = open_pairs(place, DERAIN, split)
            assert [pair.name for pair in pairs] == names
    rainy, clean = read_pair(open_pairs(tmp_path, DERAIN)[0], DERAIN, 0, 0)
    assert torch.equal(clean, drawn(1, width=20))
    assert torch.equal(rainy, drawn(2, width=20).float() / 255)
    crops = training_crops(DERAIN, tmp_path, patch=20, batch_size=1)
    assert {x.shape for x in (*crops.inputs, *crops.targets)} == {(3, 32, 20)}
    assert crops.degraded


def test_an_odd_pair_side_by_side_is_refused(tmp_path: Path) -> None:
    side_by_side(tmp_path / "test_syn" / "9.png", width=41)
    with pytest.raises(UsageError, match="no clean left half is exactly as wide"):
        open_pairs(tmp_path, DERAIN)
    with pytest.raises(UsageError, match="holds test_syn but no training"):
        open_pairs(tmp_path, DERAIN, "train")


def test_other_folders_called_training_hold_clean_images(tmp_path: Path) -> None:
    write_png(tmp_path / "training" / "1.png", drawn(1))
    assert open_pairs(tmp_path / "training", DERAIN, "train")[0].input is None


@pytest.mark.parametrize("sides", [("hazy", "clear"), ("ITS_haze", "ITS_clear"), ("haze", "clear")])
def test_reside_has_many_hazy_images_of_one_target(tmp_path: Path, sides: tuple[str, str]) -> None:
    write_png(tmp_path / sides[1] / "1064.png", drawn(1))
    for number in range(1, 11):
        write_png(tmp_path / sides[0] / f"1064_{number:02}_0.7{number}.png", drawn(2))
    pairs = open_pairs(tmp_path, DEHAZE, "train")
    assert len(pairs) == 10
    assert {pair.target.name for pair in pairs} == {"1064.png"}


def test_two_targets_of_one_name_are_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "input" / "a.png", drawn(1))
    write_png(tmp_path / "target" / "a.png", drawn(2))
    write_png(tmp_path / "target" / "a.jpg", drawn(3))
    with pytest.raises(UsageError, match="target has several files for a"):
        open_pairs(tmp_path, DERAIN)


@pytest.mark.parametrize(
    ("task", "words"), [(DENOISE, "SIDD"), (DEBLUR, "Köhler"), (DERAIN, "Rain8")]
)
def test_a_missing_folder_names_the_data_set(task: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        open_pairs(tmp_path / "missing", task)  # type: ignore[arg-type]
