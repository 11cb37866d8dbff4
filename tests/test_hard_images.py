"""Values outside of [0, 1] are counted, and thin networks are tried on hard images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cli_cases import denoising_checkpoint, images, run
from thinlens.api import save
from thinlens.errors import UsageError
from thinlens.models import create
from thinlens.restoration.clipping import (
    CLIP_MARGIN,
    CLIP_SHARE,
    clipped,
    clipping_sentence,
    counted_clipping,
)
from thinlens.restoration.hard_images import (
    HARD_SIDE,
    compare_on_hard_images,
    hard_images,
    hard_images_entry,
    hard_images_sentence,
)
from thinlens.restoration.tiled import restore_image
from thinlens.tasks import make_task


class Steep(nn.Module):
    """Returns values far outside of [0, 1] where an image is rough."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return x + self.factor * (x - mean)


def test_only_what_is_far_outside_is_counted() -> None:
    values = torch.tensor([-CLIP_MARGIN, -0.5, 0.5, 1 + CLIP_MARGIN, 1.5])
    with counted_clipping() as outer:
        with counted_clipping() as inner:
            assert torch.equal(clipped(values), values.clamp(0, 1))
        assert (inner.values, inner.outside) == (5, 2)
    assert outer.values == 0
    assert torch.equal(clipped(values), values.clamp(0, 1))  # outside of a block nothing is counted
    assert not inner.share < CLIP_SHARE
    many = clipping_sentence({f"{index}.png": 0.01 * index for index in range(1, 8)})
    assert many.startswith("7 results were clipped")
    assert many.endswith(
        "[0, 1]: 7.png (7.0 %), 6.png (6.0 %), 5.png (5.0 %), 4.png (4.0 %), "
        "3.png (3.0 %) and 2 more"
    )


@pytest.mark.parametrize("tile", [None, 16])
def test_tiles_count_like_the_whole(tile: int | None) -> None:
    image = dict(hard_images(1))["checkerboard"]
    with counted_clipping() as counts:
        restore_image(Steep(8.0), image, tile=tile)
    assert counts.share > 0.9


def test_hard_images_are_always_the_same_images() -> None:
    for channels in (1, 3):
        first, second = dict(hard_images(channels)), dict(hard_images(channels))
        assert first.keys() == second.keys()
        for name, image in first.items():
            assert image.shape == (channels, HARD_SIDE, HARD_SIDE)
            assert 0 <= image.min() <= image.max() <= 1
            assert torch.equal(image, second[name])
    assert 0.1 < dict(hard_images(1))["text"].mean() < 0.9


def test_a_thin_network_that_breaks_alone_is_named() -> None:
    dense, thin = Steep(0.1), Steep(20.0)
    broken = {image.name for image in compare_on_hard_images(dense, thin, 3) if image.breaks}
    assert {"noise of sigma 50", "checkerboard", "text"} <= broken
    assert not broken & {"grey", "black", "white"}
    sentence = hard_images_sentence(compare_on_hard_images(dense, thin, 3))
    assert "breaks where the dense one does not: noise of sigma" in sentence
    assert "of its values far outside of [0, 1]" in sentence


def test_what_breaks_the_dense_network_too_is_no_failure() -> None:
    results = compare_on_hard_images(Steep(20.0), Steep(20.0), 1)
    assert not any(image.breaks for image in results)
    assert "hard images: at least inf dB" in hard_images_sentence(results)
    nothing = compare_on_hard_images(Steep(float("nan")), Steep(0.1), 1)
    assert not any(image.breaks for image in nothing)
    results = compare_on_hard_images(Steep(0.1), Steep(float("nan")), 1)
    assert all(image.breaks for image in results)
    assert set(hard_images_entry(results).values()) == {None}
    with pytest.raises(UsageError):
        compare_on_hard_images(nn.Linear(3, 3), nn.Linear(3, 3), 1)


def test_the_commands_say_it(tmp_path: Path) -> None:
    module = create("dncnn-17", depth=3, width=8)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(30)
    save(tmp_path / "wild", module, model="dncnn-17", task=make_task("denoise"))
    source = images(tmp_path / "in", 2, 24, 24)
    ran = run("restore", source, "--model", tmp_path / "wild", "--out", tmp_path / "out")
    assert ran.status == 0
    assert "2 results were clipped, the network returned values far outside of [0, 1]" in ran.out
    line = json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[0])
    assert CLIP_SHARE < line["clipped"] <= 1
    again = ("restore", source / "image0.png", "--model", tmp_path / "wild", "--json")
    answer = run(*again, "--out", tmp_path / "one.png").json
    assert answer["clipped"] == {"image0.png": line["clipped"]}
    tame = denoising_checkpoint(tmp_path / "tame")
    answer = run("restore", source, "--model", tame, "--out", tmp_path / "fine", "--json").json
    assert answer["clipped"] == {}
    thin = ("prune", "one-shot", tame, "--budget", "1/2", "--m", 4, "--out", tmp_path / "thin")
    answer = run(*thin, "--json").json
    assert set(answer["hard_images"]) == set(dict(hard_images(1)))
    assert "hard images: " in run(*thin).out
