"""PSNR and SSIM equal the formulas of the papers and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.tasks import METRICS
from thinlens.tasks.metrics import psnr, ssim
from thinlens.tasks.task import MetricProtocol

GREY, RGB, Y = (MetricProtocol(channel, crop=0) for channel in ("grey", "RGB", "Y"))
SSIM_BORDER = 5
"""Half the window: scikit-image pads there, MATLAB omits it."""


def pair(height: int, width: int, channels: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    clean = generator.integers(0, 256, (channels, height, width))
    noisy = (clean + generator.normal(0, 20, clean.shape)).clip(0, 255)
    return torch.from_numpy(noisy.astype(np.uint8)), torch.from_numpy(clean.astype(np.uint8))


sizes = st.integers(11, 40)


@given(sizes, sizes, st.integers(0, 99))
def test_grey_equals_scikit_image(height: int, width: int, seed: int) -> None:
    x, y = pair(height, width, 1, seed)
    a, b = x[0].numpy(), y[0].numpy()
    assert psnr(x, y, GREY) == pytest.approx(peak_signal_noise_ratio(b, a), abs=1e-9)
    assert ssim(x, y, GREY) == pytest.approx(_ssim(a, b), abs=1e-6)


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    _, full = structural_similarity(
        a.astype(float),
        b.astype(float),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    border = slice(SSIM_BORDER, -SSIM_BORDER or None)
    return float(full[border, border].mean())


@given(sizes, sizes, st.integers(0, 99))
def test_rgb_is_compared_over_all_channels(height: int, width: int, seed: int) -> None:
    x, y = pair(height, width, 3, seed)
    assert psnr(x, y, RGB) == pytest.approx(peak_signal_noise_ratio(y.numpy(), x.numpy()), abs=1e-9)
    by_channel = [_ssim(x[c].numpy(), y[c].numpy()) for c in range(3)]
    assert ssim(x, y, RGB) == pytest.approx(sum(by_channel) / 3, abs=1e-6)


@given(sizes, sizes, st.integers(1, 4), st.integers(0, 99))
def test_luma_is_matlabs_and_not_rounded(height: int, width: int, crop: int, seed: int) -> None:
    x, y = pair(height + 2 * crop, width + 2 * crop, 3, seed)
    inside = slice(crop, -crop)
    a, b = (
        (np.tensordot([65.481, 128.553, 24.966], i.numpy() / 255, 1) + 16)[inside, inside]
        for i in (x, y)
    )
    protocol = MetricProtocol("Y", crop=crop)
    expected = 10 * math.log10(255**2 / np.mean((a - b) ** 2))
    assert psnr(x, y, protocol) == pytest.approx(expected, abs=1e-9)
    assert ssim(x, y, protocol) == pytest.approx(_ssim(a, b), abs=1e-6)


def test_one_level_everywhere_is_48_decibels() -> None:
    x = torch.full((1, 12, 12), 7, dtype=torch.uint8)
    assert psnr(x + 1, x, GREY) == pytest.approx(20 * math.log10(255))


@pytest.mark.parametrize("protocol", [RGB, Y])
def test_equal_images_have_infinite_psnr(protocol: MetricProtocol) -> None:
    x, _ = pair(12, 13, 3, 0)
    assert psnr(x, x, protocol) == math.inf
    assert ssim(x, x, protocol) == pytest.approx(1)


@pytest.mark.parametrize("name", METRICS)
def test_incomparable_images_are_refused(name: str) -> None:
    x, y = pair(12, 12, 1, 0)
    with pytest.raises(UsageError, match="two uint8 images of one shape"):
        METRICS[name](x[:, 1:], y, GREY)
    with pytest.raises(UsageError, match="two uint8 images of one shape"):
        METRICS[name](x.float(), y, GREY)
    with pytest.raises(UsageError, match="12x12 image has no pixels inside"):
        METRICS[name](x, y, MetricProtocol("grey", crop=6))


def test_ssim_needs_the_size_of_its_window() -> None:
    x, y = pair(10, 30, 1, 0)
    with pytest.raises(UsageError, match="30x10: SSIM needs at least 11"):
        ssim(x, y, GREY)
