"""Training batches are a pure function of (seed, epoch, step)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.resize import bicubic_downsample
from thinlens.tasks import make_task
from thinlens.tasks.crops import Crops, crops_from_clean

SR, GREY = make_task("sr", scale=2), make_task("denoise")


def clean(channels: int = 3, seed: int = 0) -> Tensor:
    noise = np.random.default_rng(seed).integers(0, 256, (channels, 41, 50), dtype=np.uint8)
    return torch.from_numpy(noise)


CROPS = crops_from_clean(SR, [clean(), clean(seed=1)], patch=12, batch_size=3)

numbers = st.integers(0, 2**31)


@given(numbers, numbers, numbers)
def test_the_same_numbers_give_the_same_batch(seed: int, epoch: int, step: int) -> None:
    first, second = CROPS.batch(seed, epoch, step), CROPS.batch(seed, epoch, step)
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)
    other = CROPS.batch(seed, epoch, step + 1)
    assert not torch.equal(first[1], other[1])


@given(numbers)
def test_a_crop_and_its_target_are_of_the_same_position(seed: int) -> None:
    inputs, targets = CROPS.batch(seed, 0, 0)
    assert inputs.shape == (3, 3, 12, 12)
    assert targets.shape == (3, 3, 24, 24)
    for small, large in zip(inputs, targets, strict=True):
        # Without the border, downsampling the target gives the input, up to the rounding between
        # the passes, whose order is swapped in a transposed crop.
        expected = bicubic_downsample((large * 255).round().to(torch.uint8), 2)[:, 3:-3, 3:-3]
        assert ((small * 255).round()[:, 3:-3, 3:-3] - expected).abs().max() <= 2


def test_a_batch_is_golden() -> None:
    """Published runs must stay reproducible: this pins the random stream."""
    image, target = CROPS.batch(1, 2, 3)
    assert (image * 255).round().sum().item() == 163_773
    assert (target * 255).round().sum().item() == 655_207


def test_the_most_detailed_candidate_is_taken() -> None:
    half = torch.zeros(1, 40, 400, dtype=torch.uint8)
    half[:, :, 200:] = clean(1).repeat(1, 1, 4)[:, :40, :200]
    many = crops_from_clean(GREY, [half], patch=16, batch_size=20, candidates=12)
    _, targets = many.batch(0, 0, 0)
    assert (targets.flatten(1).std(1) > 0.05).all()


def test_noise_differs_from_batch_to_batch() -> None:
    crops = crops_from_clean(GREY, [torch.full((1, 16, 16), 99, dtype=torch.uint8)], patch=16)
    first, target = crops.batch(0, 0, 0)
    second, _ = crops.batch(0, 0, 1)
    assert not torch.equal(first, second)
    assert (first - target).std().item() == pytest.approx(25 / 255, rel=0.1)


def test_images_without_room_for_a_crop_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    small = torch.zeros(3, 20, 90, dtype=torch.uint8)
    crops = crops_from_clean(SR, [small, clean()], patch=12)
    for one, other in zip(
        crops.batch(0, 0, 0), crops_from_clean(SR, [clean()], patch=12).batch(0, 0, 0), strict=True
    ):
        assert torch.equal(one, other)
    assert crops.description.endswith("of 1 clean images")
    (line,) = (message for message in caplog.messages if "left out" in message)
    assert line.startswith("1 of 2 training images are smaller than the patch of 12")


def test_the_first_side_that_fits_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    crops = crops_from_clean(SR, [clean()], patch=(4000, 12, 8))
    assert crops.patch == 12
    assert caplog.messages == ["no training image holds a crop of 4000 pixels: taking 12"]
    with pytest.raises(UsageError, match="smaller than the patch of 4000"):
        crops_from_clean(SR, [clean()], patch=(4000, 3000))


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="1 of 1 training images are smaller than the patch"):
        crops_from_clean(SR, [torch.zeros(3, 20, 90, dtype=torch.uint8)], patch=12)
    with pytest.raises(UsageError, match="there are no training images"):
        Crops(SR, [], [])
    with pytest.raises(UsageError, match="at least 1"):
        crops_from_clean(SR, [clean()], patch=0)
