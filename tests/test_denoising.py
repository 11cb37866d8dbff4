"""Degradations of photographs: Gaussian noise of any level, noise of cameras, JPEG compression."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from thinlens.checkpoints.default_tasks import default_task
from thinlens.errors import UsageError
from thinlens.images.jpeg_artefacts import BLOCK, jpeg_compressed
from thinlens.models import create
from thinlens.tasks import make_task
from thinlens.tasks.camera_noise import GAMMA, add_camera_noise
from thinlens.tasks.crops import crops_from_clean
from thinlens.tasks.denoising import at_sigma


def image(height: int = 40, width: int = 56, channels: int = 3) -> Tensor:
    """Smooth colours with an edge, in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    planes = torch.stack([x, y, (x > 0.5).float()])[:channels]
    return (planes * 255).round() / 255


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.floats(0, 50), st.floats(0, 50), st.integers(0, 99))
def test_noise_levels_lie_in_their_range(one: float, other: float, seed: int) -> None:
    low, high = sorted((one, other))
    task = make_task("denoise", channels=1, sigma_range=(low, high))
    noise = (task.corrupt(torch.full((1, 60, 60), 0.5), rng(seed)) - 0.5) * 255
    assert low * 0.9 - 0.01 <= float(noise.std()) <= high * 1.1 + 0.01


def test_one_level_replaces_a_range() -> None:
    task = at_sigma(make_task("denoise", sigma_range=(0.0, 50.0)), 25)
    noise = (task.corrupt(torch.full((1, 80, 80), 0.5), rng()) - 0.5) * 255
    assert float(noise.std()) == pytest.approx(25, rel=0.05)


@pytest.mark.parametrize("subsampled", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_equals_the_file_of_pillow(channels: int, subsampled: bool) -> None:
    clean = image(channels=channels)
    pixels = (clean * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    options = {"subsampling": "4:2:0" if subsampled else "4:4:4"} if channels == 3 else {}
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    picture.save(file, "JPEG", quality=30, **options)
    expected = np.asarray(Image.open(file)).reshape(pixels.shape)
    result = jpeg_compressed(clean, 30, subsampled=subsampled)
    assert np.array_equal((result * 255).round().permute(1, 2, 0).numpy(), expected)


def test_an_offset_moves_the_grid_of_blocks() -> None:
    clean = image(48, 48)
    straight = jpeg_compressed(clean, 10)
    cut = jpeg_compressed(clean[:, 8:, 8:], 10)
    assert torch.equal(straight[:, 8:, 8:], cut)
    assert torch.equal(jpeg_compressed(clean, 10, offset=(8, 8))[:, 8:, 8:], cut)
    assert not torch.equal(jpeg_compressed(clean, 10, offset=(3, 5)), straight)
    assert BLOCK == 16


@given(st.floats(20, 2000), st.floats(0, 5), st.floats(0.1, 0.9))
def test_camera_noise_has_the_variance_of_its_photons(
    photons: float, readout: float, level: float
) -> None:
    grey = torch.full((1, 100, 100), level)
    noisy = add_camera_noise(grey, photons, readout, rng()).double()
    counts = noisy**GAMMA * photons
    light = float(torch.tensor(level).double() ** GAMMA) * photons
    variance = light + readout**2
    if light > 6 * variance**0.5:  # else clipping at 0 changes both
        assert float(counts.mean()) == pytest.approx(light, abs=5 * (variance / 10_000) ** 0.5)
        assert float(counts.var()) == pytest.approx(variance, rel=0.12)
    assert noisy.min() >= 0


@pytest.mark.parametrize("channels", [1, 3])
def test_a_degraded_photograph_is_reproducible_and_near_the_clean_one(channels: int) -> None:
    task = make_task("denoise-jpeg", channels=channels)
    clean = image(channels=channels)
    seen = [task.corrupt(clean, rng(seed)) for seed in range(24)]
    assert all(torch.equal(x, task.corrupt(clean, rng(s))) for s, x in enumerate(seen))
    distances = [float((x - clean).abs().mean()) for x in seen]
    assert min(distances) < 0.02 < max(distances) < 0.3
    assert all(torch.isfinite(x).all() for x in seen)


def test_a_crop_is_degraded_with_what_is_around_it() -> None:
    task = make_task("denoise-jpeg", channels=3)
    clean = (image(96, 96) * 255).to(torch.uint8)
    crops = crops_from_clean(task, [clean], patch=24, batch_size=4)
    noisy, target = crops.batch(0, 0, 0)
    assert noisy.shape == target.shape == (4, 3, 24, 24)
    assert crops.synthetic == task.synthetic != ""
    with pytest.raises(UsageError, match="smaller than the patch of 80"):
        crops_from_clean(task, [clean], patch=80)


def test_a_recipe_names_another_task_of_a_network() -> None:
    network = create("dncnn-17", depth=3, width=8, channels=3)
    assert default_task("dncnn-17", network, name="denoise-jpeg", quality=(10, 20)) == make_task(
        "denoise-jpeg", channels=3, quality=(10, 20)
    )


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("denoise", {"sigma_range": (5.0,)}, "wanted a least and a largest level"),
        ("denoise", {"sigma_range": (9.0, 5.0)}, "wanted a least and a largest level"),
        ("denoise", {"sigma_range": (0.0, float("nan"))}, "wanted a finite number"),
        ("denoise", {"sigma_range": ("a", "b")}, "wanted a finite number"),
        ("denoise", {"sigma_range": (0.0, 5.0), "sigmas": (5.0,)}, "wanted one of them"),
        ("denoise-jpeg", {"channels": 2}, "2 channels"),
        ("denoise-jpeg", {"photons": (0.0, 5.0)}, "wanted photons above 0"),
        ("denoise-jpeg", {"photons": (9.0, 5.0)}, "from 0 to 1e"),
        ("denoise-jpeg", {"quality": (0, 50)}, "from 1 to 100"),
        ("denoise-jpeg", {"quality": (5.0, 50.0)}, "wanted a whole number"),
        ("denoise-jpeg", {"readout": -1.0}, "readout of 0 or more"),
        ("denoise-jpeg", {"compressed": 1.5}, "wanted a fraction"),
    ],
)
def test_a_wrong_degradation_is_refused(name: str, options: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make_task(name, **options)
