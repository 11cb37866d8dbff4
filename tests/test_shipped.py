"""Shipped checkpoints: each loads by its name, has a card, and is as near to its dense network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import thinlens
from thinlens.api import load_checkpoint
from thinlens.checkpoints.shipped import WEIGHTS, list_shipped
from thinlens.images.reading import read_image
from thinlens.restoration.tiled import restore_image
from thinlens.tasks import make_task
from thinlens.tasks.denoising import add_gaussian_noise

MOST_BYTES = 6_000_000
"""Bytes that the thin networks may have together."""

DENSE = {
    "realesr-animevideov3-thin": "RealESRGAN/realesr-animevideov3.pth",
    "realesrgan-x4plus-anime-thin": "RealESRGAN/realesrgan-x4plus-anime.pth",
}
"""Weights of the dense network that a thin one stands for."""

DENOISERS = ("dncnn-color-blind", "dncnn-color-jpeg")
"""Shipped dense, and thin under the same name with -thin."""

MOST_DENOISER_BYTES = 1_500_000

IMAGES = ("img_002", "img_007", "img_014")


def card(name: str) -> str:
    """Return the text below the YAML card for model hubs."""
    return (WEIGHTS / name / "README.md").read_text().partition("\n---\n")[2].lstrip()


@pytest.mark.parametrize("name", list_shipped())
def test_a_shipped_network_loads_by_its_name_and_has_a_card(name: str) -> None:
    network = load_checkpoint(name)
    scale = make_task(**network.task).scale
    with torch.no_grad():
        assert network.module(torch.rand(1, 3, 7, 9)).shape == (1, 3, 7 * scale, 9 * scale)
    assert card(name).startswith(f"# {name}\n")
    assert "Licence" in card(name)


def test_thin_networks_are_small_and_at_most_a_quarter() -> None:
    thin = [name for name in list_shipped() if name.endswith("-thin")]
    assert thin
    assert sum(p.stat().st_size for name in thin for p in (WEIGHTS / name).iterdir()) < MOST_BYTES
    for name in thin:
        assert thinlens.cost(load_checkpoint(name), (16, 16)).budget <= 0.25
        assert re.search(r"`[0-9a-f]{64}`", card(name))


@pytest.mark.needs_data
@pytest.mark.parametrize("name", DENSE)
def test_a_thin_network_is_as_near_to_the_dense_one_as_its_card_says(data: Path, name: str) -> None:
    sources = (data / "weights" / DENSE[name], name)
    dense, thin = (thinlens.compile(load_checkpoint(source).module) for source in sources)
    row = re.search(r"\| this network \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", card(name))
    assert row
    for image, stated in zip(IMAGES, row.groups(), strict=True):
        path = data / "sr_test" / "Set14" / "x4" / "LR" / f"{image}.png"
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float32).transpose(2, 0, 1) / 255
        with torch.no_grad():
            x = torch.from_numpy(pixels)[None]
            one, other = ((255 * net(x).clamp(0, 1)).round() for net in (dense, thin))
        psnr = 10 * torch.log10(255**2 / (one - other).square().mean())
        assert float(psnr) == pytest.approx(float(stated), abs=0.02)


@pytest.mark.parametrize("name", DENOISERS)
def test_a_denoiser_is_small_and_removes_noise(name: str) -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 64), indexing="ij")
    clean = torch.stack([x, y, (x > 0.5).float()])
    for network in (name, f"{name}-thin"):
        assert (WEIGHTS / network / "model.safetensors").stat().st_size < MOST_DENOISER_BYTES
        for sigma in (10, 25, 50):
            noisy = add_gaussian_noise(clean, sigma, np.random.default_rng(sigma))
            result = restore_image(load_checkpoint(network).module, noisy)
            before, after = ((image - clean).square().mean() for image in (noisy, result))
            assert after < before / 2


@pytest.mark.needs_data
@pytest.mark.parametrize("name", DENOISERS)
def test_a_denoiser_is_as_good_as_its_card_says(data: Path, name: str) -> None:
    paths = sorted((data / "sr_test" / "B100" / "x4" / "HR").glob("*.png"))[:3]
    for network in (name, f"{name}-thin"):
        row = re.search(r"\| three images, sigma 25 \| ([\d.]+) \|", card(network))
        assert row
        module, figures = load_checkpoint(network).module, []
        for index, path in enumerate(paths):
            clean = read_image(path, channels=3).float() / 255
            noisy = add_gaussian_noise(clean, 25, np.random.default_rng([0, index]))
            error = (255 * restore_image(module, noisy)).round() - 255 * clean
            figures.append(10 * np.log10(255**2 / float(error.square().mean())))
        assert np.mean(figures) == pytest.approx(float(row[1]), abs=0.02)
