"""Synthetic blur averages linear light along a camera trajectory, reproducibly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.tasks import make_task
from thinlens.tasks.crops import crops_from_clean
from thinlens.tasks.motion_blur import POSES, blur_along, random_trajectory

DEBLUR = make_task("deblur", reach=6)

seeds = st.integers(0, 2**31)


def drawn(seed: int, radius: float = 6) -> np.ndarray:
    return random_trajectory(np.random.default_rng(seed), radius)


def photograph(channels: int = 3, height: int = 30, width: int = 40) -> Tensor:
    rough = torch.rand(1, channels, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(rough, (height, width), mode="bicubic")[0].clamp(0, 1)


@given(seeds, st.floats(1, 40))
def test_a_trajectory_is_zero_in_the_middle_and_within_its_radius(seed: int, radius: float) -> None:
    path = drawn(seed, radius)
    assert path.shape == (POSES, 3)
    assert np.array_equal(path[POSES // 2], np.zeros(3))
    assert (np.hypot(path[:, 0], path[:, 1]) + np.abs(path[:, 2])).max() <= radius + 1e-9


@given(seeds)
def test_trajectories_are_smooth(seed: int) -> None:
    path = drawn(seed)
    steps = np.diff(path, axis=0)
    # neighbouring steps share most of their direction, unlike those of a jagged path
    assert (steps[1:] * steps[:-1]).sum() > 0


def test_a_trajectory_of_whole_pixels_is_the_mean_of_shifted_images() -> None:
    light = photograph()
    path = np.array([[0.0, 0, 0], [2, 0, 0], [0, -3, 0]])
    inside = np.s_[:, 4:-4, 4:-4]
    # a camera pose 2 pixels to the right shifts the image 2 pixels to the left
    shifted = [light, light.roll(-2, 2), light.roll(3, 1)]
    expected = torch.stack(shifted).mean(0)
    torch.testing.assert_close(blur_along(light, path)[inside], expected[inside], rtol=0, atol=1e-5)


def test_the_border_is_replicated() -> None:
    light = photograph()
    path = np.array([[100.0, 0, 0]])
    expected = light[:, :, -1:].expand_as(light)
    torch.testing.assert_close(blur_along(light, path), expected, rtol=0, atol=1e-5)


def test_a_rotation_blurs_the_corners_and_not_the_centre() -> None:
    light = (torch.arange(41)[:, None] + torch.arange(41)[None] & 1).float()[None]
    rotated = blur_along(light, np.array([[0.0, 0, 4], [0, 0, 0], [0, 0, -4]]))
    change = (rotated - light).abs()[0]
    assert change[20, 20] < 1e-4
    assert change[18:23, 18:23].mean() < change[:5, :5].mean()
    # a quarter rotation about the centre is an exact permutation of the pixels of a square
    radius = np.hypot(41, 41) / 2
    picture = photograph(height=41, width=41)
    quarter = blur_along(picture, np.array([[0.0, 0, np.pi / 2 * radius]]))
    torch.testing.assert_close(quarter, picture.rot90(1, (1, 2)), rtol=0, atol=1e-4)


def test_blur_averages_linear_light() -> None:
    halves = torch.zeros(1, 20, 40)
    halves[:, :, 20:] = 1
    linear, coded = make_task("deblur", gamma=1.0), make_task("deblur")
    rows = [task.corrupt(halves, np.random.default_rng(5)) for task in (linear, coded)]
    assert (rows[1] - rows[0]).max() > 0.2  # half of the light is coded as 0.5^(1/2.2) = 0.73
    # half a level of rounding, 1/510, is coded as 0.06
    torch.testing.assert_close(rows[0] ** (1 / 2.2), rows[1], rtol=0, atol=0.07)


@given(seeds)
def test_the_same_numbers_give_the_same_blur_in_8_bits(seed: int) -> None:
    image = photograph()
    first, second = (DEBLUR.corrupt(image, np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(first, second)
    other = DEBLUR.corrupt(image, np.random.default_rng(seed + 1))
    assert not torch.equal(first, other)
    assert ((first * 255) - (first * 255).round()).abs().max() < 1e-4
    assert first.min() >= 0
    assert first.max() <= 1


def test_a_flat_image_is_unchanged() -> None:
    flat = torch.full((3, 16, 16), 77 / 255)
    torch.testing.assert_close(DEBLUR.corrupt(flat, np.random.default_rng(0)), flat)


def test_a_training_crop_is_blurred_with_its_surroundings() -> None:
    rows, columns = torch.arange(60)[:, None], torch.arange(70)[None]
    ramps = torch.stack([(3 * columns).expand(60, 70), (4 * rows).expand(60, 70)])
    clean = torch.cat([ramps, torch.zeros(1, 60, 70)]).to(torch.uint8)
    crops = crops_from_clean(make_task("deblur", reach=6, gamma=1.0), [clean], patch=12)
    assert crops.synthetic == "synthetic motion blur"
    image, target = (batch * 255 for batch in crops.batch(0, 0, 0))
    assert image.shape == target.shape == (8, 3, 12, 12)
    # the target is at least the margin away from the border of the whole image
    for channel, (slope, last) in enumerate([(3, 69), (4, 59)]):
        positions = target[:, channel] / slope
        assert positions.min() >= 6
        assert positions.max() <= last - 6
    # a ramp stays a ramp, also at the border of the crop, where padding would flatten it
    for blurry, sharp in zip(image[:, 0], target[:, 0], strict=True):
        along = 1 if sharp[0, 0] != sharp[0, 1] else 0
        assert (blurry.diff(dim=along).abs() - 3).abs().max() < 1.5


@pytest.mark.parametrize("patch", [49, 48])
def test_an_image_smaller_than_patch_and_margin_is_refused(patch: int) -> None:
    clean = torch.zeros(3, 60, 70, dtype=torch.uint8)
    if patch == 48:
        assert crops_from_clean(DEBLUR, [clean], patch=patch).batch(0, 0, 0)[0].shape[-1] == 48
        return
    with pytest.raises(UsageError, match="patch of 49 input pixels and 6 around it"):
        crops_from_clean(DEBLUR, [clean], patch=patch)
