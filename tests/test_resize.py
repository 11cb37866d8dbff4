"""Bicubic downsampling gives the published LR images to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from thinlens.images.folders import image_paths
from thinlens.images.pixels import to_float
from thinlens.images.reading import read_image
from thinlens.images.resize import bicubic_downsample, bicubic_upsample


@given(st.integers(0, 255), st.integers(2, 4), st.integers(4, 30), st.integers(4, 30))
def test_a_flat_image_stays_flat(value: int, scale: int, height: int, width: int) -> None:
    flat = torch.full((3, height, width), value, dtype=torch.uint8)
    small = bicubic_downsample(flat, scale)
    assert small.shape == (3, height // scale, width // scale)
    assert (small == value).all()


def kernel(distance: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, as a formula."""
    x = distance.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def downsampled_by_the_formula(image: Tensor, scale: int) -> Tensor:
    """MATLAB's imresize, written as two weight matrices in float64."""
    rows, columns = (weights(size, scale) for size in image.shape[-2:])
    low = (rows @ image.double() + 0.5).floor().clamp(0, 255)
    return (low @ columns.T + 0.5).floor().clamp(0, 255).to(torch.uint8)


def weights(size: int, scale: int) -> Tensor:
    outputs = torch.arange(size // scale, dtype=torch.float64)
    centre = (outputs + 0.5) * scale - 0.5
    window = torch.arange(-2 * scale, 2 * scale + 1)
    taps = centre.floor()[:, None] + window
    tap_weights = kernel((centre[:, None] - taps) / scale)
    matrix = torch.zeros(size // scale, size, dtype=torch.float64)
    matrix.scatter_add_(1, taps.long().clamp(0, size - 1), tap_weights)
    return matrix / matrix.sum(1, keepdim=True)


@given(st.integers(2, 4), st.integers(2, 9), st.integers(2, 9), st.integers(0, 999))
def test_downsampling_is_the_formula(scale: int, height: int, width: int, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (1, height * scale, width * scale), generator=noise)
    image = image.to(torch.uint8)
    difference = (
        bicubic_downsample(image, scale).int() - downsampled_by_the_formula(image, scale).int()
    )
    # float32 and float64 may round a tie differently: by one level, and hardly ever.
    assert difference.abs().max() <= 1
    assert (difference != 0).sum() <= 1


def test_upsampling_keeps_a_flat_image_and_its_range() -> None:
    flat = torch.full((1, 3, 5, 6), 0.3)
    torch.testing.assert_close(bicubic_upsample(flat, 4), torch.full((1, 3, 20, 24), 0.3))
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    assert bicubic_upsample(edge, 2).aminmax() == (0, 1)  # bicubic overshoots: clipped


def assert_exact(folder: Path, scale: int, every: int = 1) -> None:
    for large in image_paths(folder / "HR")[::every]:
        small = read_image(folder / "LR" / large.name, channels=None)
        differing = bicubic_downsample(read_image(large, channels=None), scale) != small
        assert not differing.any(), f"{large.name}: {int(differing.sum())} values differ"


@pytest.mark.needs_data
@pytest.mark.parametrize(("name", "scale"), [("Set5", 2), ("Set5", 3), ("Set5", 4), ("Set14", 4)])
def test_no_value_differs_from_the_published_images(data: Path, name: str, scale: int) -> None:
    assert_exact(data / "sr_test" / name / f"x{scale}", scale)


@pytest.mark.needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), [("Set14", 2), ("B100", 4)])
def test_no_value_differs_in_the_large_sets(data: Path, name: str, scale: int) -> None:
    assert_exact(data / "sr_test" / name / f"x{scale}", scale)


def test_to_float_maps_to_the_unit_interval() -> None:
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]
