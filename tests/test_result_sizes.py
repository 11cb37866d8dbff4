"""Sizes, strengths and resampling of results."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from thinlens.errors import UsageError
from thinlens.images.reading import read_image
from thinlens.images.resample import linear_light, resampled, stored_values
from thinlens.images.writing import write_png
from thinlens.restoration.folder import restore_folder
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.result_size import ResultSize
from thinlens.tasks import make_task

TASK = make_task("sr", scale=2)

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def twice(image: Tensor) -> Tensor:
    return F.interpolate(image, scale_factor=2)


def same(image: Tensor) -> Tensor:
    return image


def by_pillow(image: Tensor, target: tuple[int, int], method: str) -> Tensor:
    """Resize a whole image by Pillow."""
    planes = linear_light(image) if method == "lanczos" else image
    size = (target[1], target[0])
    resized = [
        np.array(Image.fromarray(plane.numpy()).resize(size, FILTERS[method])) for plane in planes
    ]
    result = torch.from_numpy(np.stack(resized)).clamp(0, 1)
    return stored_values(result) if method == "lanczos" else result


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 9)),
    target=st.tuples(st.integers(1, 400), st.integers(1, 9)),
    cut=st.integers(1, 70),
    method=st.sampled_from(sorted(FILTERS)),
)
def test_bands_are_resampled_as_the_whole_image(
    size: tuple[int, int], target: tuple[int, int], cut: int, method: Any
) -> None:
    image = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    bands = list(resampled(iter(image.split(cut, dim=1)), size, target, method))
    torch.testing.assert_close(
        torch.cat(bands, dim=1), by_pillow(image, target, method), rtol=0, atol=2e-5
    )


@given(st.floats(0, 1))
def test_linear_light_round_trips(value: float) -> None:
    stored = torch.tensor(value)
    assert stored_values(linear_light(stored)).item() == pytest.approx(value, abs=1e-5)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000))
def test_a_result_fits_into_its_box_and_touches_it(h: int, w: int, bh: int, bw: int) -> None:
    height, width = ResultSize(box=(bh, bw)).of(h, w)
    assert (height == bh and width <= bw) or (width == bw and height <= bh)
    assert abs(Fraction(height, h) - Fraction(width, w)) <= max(Fraction(1, h), Fraction(1, w))


SIZES = {
    "3x": (24, 36),
    "1.5x": (12, 18),
    "1x": (8, 12),
    "50%": (4, 6),
    "120x48": (48, 72),
    "4x": (32, 48),
    "7x": (56, 84),
    None: (16, 24),
}


@pytest.mark.parametrize("network", [twice, same])
@pytest.mark.parametrize("text", SIZES)
def test_results_have_the_size_asked_for(text: str | None, network: Any, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", torch.full((3, 8, 12), 100, dtype=torch.uint8))
    for resample in ("bicubic", "lanczos"):
        options = RestoreOptions(size=text, resample=resample)  # type: ignore[arg-type]
        out = tmp_path / resample
        restore_folder(network, TASK, tmp_path / "a.png", out, options=options)
        expected = (8, 12) if text is None and network is same else SIZES[text]
        image = read_image(out / "a.png")
        assert image.shape[1:] == expected
        assert image.unique().tolist() == [100]


@pytest.mark.parametrize("text", ["", "big", "0x", "0%", "x2", "-1x", "10x0", "1.5", "2X", "1e3x"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"wanted WIDTHxHEIGHT"):
        RestoreOptions(size=text)


def test_the_network_runs_again_while_the_result_is_too_small(tmp_path: Path) -> None:
    calls = []

    def counted(image: Tensor) -> Tensor:
        calls.append(tuple(image.shape[2:]))
        return twice(image)

    write_png(tmp_path / "a.png", torch.zeros(3, 8, 12, dtype=torch.uint8))
    options = RestoreOptions(size="5x")
    restore_folder(counted, TASK, tmp_path / "a.png", tmp_path / "out", options=options)
    # what measures the scale of small images is not counted
    assert [size for size in calls if size != (64, 64)] == [(8, 12), (16, 24), (32, 48)]


def test_a_size_beyond_reason_is_listed(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", torch.zeros(3, 8, 12, dtype=torch.uint8))
    options = RestoreOptions(size="99999x")
    result = restore_folder(twice, TASK, tmp_path / "a.png", tmp_path / "out", options=options)
    assert "has more than 4294967296 pixels" in result.failures["a.png"]


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("alpha", [False, True])
def test_strength_blends_with_the_enlarged_input(
    strength: float, alpha: bool, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (4 if alpha else 3, 300, 7), generator=generator).to(torch.uint8)
    if alpha:
        image[3] = 255
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    options = RestoreOptions(strength=strength)
    restore_folder(
        lambda x: 1 - twice(x), TASK, tmp_path / "a.png", tmp_path / "out", options=options
    )
    values = image[:3].float() / 255
    plain = by_pillow(values, (600, 14), "bicubic")
    expected = strength * (1 - twice(values[None])[0]) + (1 - strength) * plain
    result = torch.from_numpy(np.array(Image.open(tmp_path / "out" / "a.png"))).permute(2, 0, 1)
    assert result.shape[0] == (4 if alpha else 3)
    assert (result[:3].float() - expected * 255).abs().max() <= 0.51


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"strength": 1.5}, "--strength 1.5: wanted 0 to 1"),
        ({"quality": 0}, "--quality 0: wanted 1 to 100"),
        ({"quality": 90}, "png is not lossy"),
        ({"format": "gif"}, "--format 'gif': wanted png, jpeg"),
        ({"alpha": "keep"}, "--alpha 'keep': wanted network, bicubic or flatten"),
        ({"resample": "box"}, "--resample 'box': wanted bicubic or lanczos"),
    ],
)
def test_options_that_cannot_be_are_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        RestoreOptions(**fields)
