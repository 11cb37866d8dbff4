"""Evaluation covers the whole set, is reproducible, and reports its protocol."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.images.resize import bicubic_upsample
from thinlens.images.writing import write_png
from thinlens.restoration.evaluation import evaluate
from thinlens.tasks import make_task

GREY = make_task("denoise")


def fill(folder: Path, *names: str, side: int = 64) -> None:
    noise = torch.Generator().manual_seed(0)
    for name in names:
        image = torch.randint(100, 156, (1, side, side), generator=noise).to(torch.uint8)
        write_png(folder / f"{name}.png", image)


def test_the_identity_is_as_good_as_the_noise_is_small(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    result = evaluate(nn.Identity(), GREY, tmp_path)
    assert result.images == 2
    assert result.psnr == pytest.approx(20 * math.log10(255 / 25), abs=0.2)
    assert result.psnr == sum(score.psnr for score in result.per_image) / 2
    assert result.ssim == sum(score.ssim for score in result.per_image) / 2


def test_the_same_seed_gives_the_same_figures(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    first, second, other = (evaluate(nn.Identity(), GREY, tmp_path, seed=s) for s in (1, 1, 2))
    assert first == second != other


def test_json_holds_the_promised_keys(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    content = json.loads(json.dumps(evaluate(nn.Identity(), GREY, tmp_path).as_json()))
    assert list(content) == ["images", "data", "psnr", "ssim", "lpips", "protocol", "per_image"]
    assert content["protocol"] == {"channel": "grey", "crop": 0, "rounding": "8 bit", "range": 255}
    assert list(content["per_image"][0]) == ["name", "psnr", "ssim"]
    assert content["per_image"][0]["name"] == "a"
    assert content["lpips"] is None


def test_a_perfect_image_is_null_in_json(tmp_path: Path) -> None:
    fill(tmp_path / "input", "a")
    fill(tmp_path / "target", "a")
    result = evaluate(nn.Identity(), GREY, tmp_path)
    assert result.psnr == math.inf
    assert result.as_json()["psnr"] is None
    assert result.as_json()["per_image"] == [{"name": "a", "psnr": None, "ssim": 1.0}]


def test_progress_counts_images(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    calls: list[tuple[int, int, list[str]]] = []

    def note(done: int, total: int, values: Mapping[str, float]) -> None:
        calls.append((done, total, list(values)))

    evaluate(nn.Identity(), GREY, tmp_path, progress=note)
    assert calls == [(1, 2, ["psnr"]), (2, 2, ["psnr"])]


def test_one_bad_image_spoils_the_set(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(UsageError, match=r"b\.png"):
        evaluate(nn.Identity(), GREY, tmp_path)


def test_a_tiny_image_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "a", side=10)
    with pytest.raises(UsageError, match=r"a\.png: .*SSIM needs at least 11"):
        evaluate(nn.Identity(), GREY, tmp_path)


def test_synthetic_blur_is_labelled_and_real_blur_is_not(tmp_path: Path) -> None:
    fill(tmp_path / "clean", "a")
    fill(tmp_path / "pairs" / "blur", "a")
    fill(tmp_path / "pairs" / "sharp", "a")
    deblur = make_task("deblur")
    synthetic = evaluate(nn.Identity(), deblur, tmp_path / "clean").as_json()
    assert synthetic["protocol"]["input"] == "synthetic motion blur"
    assert synthetic["psnr"] is not None
    pairs = evaluate(nn.Identity(), deblur, tmp_path / "pairs").as_json()
    assert list(pairs["protocol"]) == ["channel", "crop", "rounding", "range"]
    assert pairs["psnr"] is None


def test_missing_lpips_is_explained_where_papers_report_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a")
    monkeypatch.setitem(sys.modules, "lpips", None)
    result = evaluate(nn.Identity(), make_task("deblur"), tmp_path)
    assert result.lpips is None
    assert "needs the package lpips" in result.without_lpips
    monkeypatch.setitem(sys.modules, "lpips", types.ModuleType("lpips"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    result = evaluate(nn.Identity(), make_task("deblur"), tmp_path)
    assert "needs AlexNet's weights" in result.without_lpips
    assert not evaluate(nn.Identity(), GREY, tmp_path).without_lpips


def test_lpips_sees_rgb_from_minus_1_to_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(nn.Module):
        def __init__(self, net: str, version: str, verbose: bool) -> None:
            super().__init__()
            assert (net, version, verbose) == ("alex", "0.1", False)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            assert x.shape == y.shape == (1, 3, 64, 64)
            return (y.mean() + 1).view(1, 1, 1, 1)

    package = types.ModuleType("lpips")
    package.LPIPS = Seen  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", package)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    write_png(tmp_path / "data" / "a.png", torch.full((3, 64, 64), 51, dtype=torch.uint8))
    weights = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-0.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    result = evaluate(nn.Identity(), make_task("deblur"), tmp_path / "data")
    assert result.as_json()["lpips"] == pytest.approx(2 * 51 / 255)


@pytest.mark.needs_data
def test_bicubic_has_its_known_figure_on_set5(data: Path) -> None:
    def bicubic(image: Tensor) -> Tensor:
        return bicubic_upsample(image, 4)

    result = evaluate(bicubic, make_task("sr", scale=4), data / "sr_test" / "Set5")
    # 28.42 dB and 0.8104 in the tables of EDSR, CARN and RFDN.
    assert result.psnr == pytest.approx(28.42, abs=0.02)
    assert result.ssim == pytest.approx(0.8104, abs=0.002)
