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

MOST_BYTES = 6_000_000
"""Bytes that the thin networks may have together."""

DENSE = {"realesr-animevideov3-thin": "RealESRGAN/realesr-animevideov3.pth"}
"""Weights of the dense network that a thin one stands for."""

IMAGES = ("img_002", "img_007", "img_014")


def card(name: str) -> str:
    return (WEIGHTS / name / "README.md").read_text()


@pytest.mark.parametrize("name", list_shipped())
def test_a_shipped_network_loads_by_its_name_and_has_a_card(name: str) -> None:
    network = load_checkpoint(name)
    assert network.task["name"] == "sr"
    with torch.no_grad():
        assert network.module(torch.rand(1, 3, 7, 9)).shape == (1, 3, 28, 36)
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
    dense = load_checkpoint(data / "weights" / DENSE[name]).module.eval()
    thin = load_checkpoint(name).module.eval()
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
