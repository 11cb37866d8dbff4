"""Shipped networks put out images on hard ones too, or the card says how far outside."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from thinlens.api import load_checkpoint
from thinlens.checkpoints.shipped import WEIGHTS, list_shipped
from thinlens.restoration.hard_images import hard_images

LEAST, LARGEST = -0.5, 1.5

SIDE = 48
"""Of the images, in pixels: the largest of the networks takes seconds for more."""

BEYOND = {
    "realesr-animevideov3",
    "realesr-animevideov3-thin",
    "rfdn-x4",
    "rfdn-x4-ceilings",
}
"""Networks whose output leaves the range; the list may only become shorter."""


def images() -> Iterator[Tensor]:
    """Yield the images on which `prune` tries a thin network, and random extremes."""
    for _, image in hard_images(3):
        yield image[:, :SIDE, :SIDE]
    generator = torch.Generator().manual_seed(0)
    yield torch.randint(2, (3, SIDE, SIDE), generator=generator).float()


def output_range(name: str) -> tuple[float, float]:
    """Return the least and the largest value of the results."""
    module = load_checkpoint(name).module
    with torch.no_grad():
        results = torch.cat([module(image[None]).flatten() for image in images()])
    return float(results.min()), float(results.max())


@pytest.mark.parametrize("name", list_shipped())
def test_the_output_on_hard_images_is_as_the_card_says(name: str) -> None:
    least, largest = output_range(name)
    text = " ".join((WEIGHTS / name / "README.md").read_text().split())
    if name not in BEYOND:
        assert LEAST <= least <= largest <= LARGEST
        assert "**Range**: the output stays within [-0.5, 1.5]" in text
        return
    assert not LEAST <= least <= largest <= LARGEST, f"{name} is no longer BEYOND"
    stated = re.search(r"\*\*Range\*\*: the output reaches from (-?[\d.]+) to ([\d.]+)", text)
    assert stated
    assert (least, largest) == pytest.approx(tuple(map(float, stated.groups())), rel=0.02, abs=0.02)
