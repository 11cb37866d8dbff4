"""The demo: pruned networks, restored photographs, a report."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli_cases import run, sr_checkpoint
from thinlens.engine.native import native
from thinlens.errors import UsageError
from thinlens.experiments import demo, photographs
from thinlens.experiments.demo_networks import LIVE, VARIANTS
from thinlens.experiments.demo_report import demo_columns
from thinlens.report.tables import Table
from thinlens.tasks import make_task


def test_calibration_and_test_scenes_are_disjoint() -> None:
    assert not set(photographs.CALIBRATION_FILES) & set(photographs.TEST_FILES)


def test_without_scikit_image_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--data DIR.*thinlens\[demo\]"):
        photographs.skimage_photographs(photographs.TEST_FILES)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small network, and small pictures, in place of those of the demo."""
    pytest.importorskip("skimage")
    sr = sr_checkpoint(tmp_path / "sr", scale=4, width=16, attention_width=8)
    monkeypatch.setattr("thinlens.cli.demo.NETWORK", str(sr))
    monkeypatch.setattr("thinlens.experiments.demo_networks.TIMED_SIZE", (24, 32))
    monkeypatch.setattr("thinlens.experiments.demo_shipped.SHIPPED_ROUNDS", 1)
    monkeypatch.setattr("thinlens.experiments.demo_shipped.INPUT_SIDE", 64)
    monkeypatch.setattr("thinlens.experiments.demo_shipped.DRAWING_SIZE", (48, 64))
    monkeypatch.setattr(photographs, "CALIBRATION_FILES", ("grass.png",))
    monkeypatch.setattr(photographs, "TEST_FILES", ("chelsea.png",))
    monkeypatch.delenv("THINLENS_DATA", raising=False)
    return sr


@pytest.mark.slow
def test_the_demo_on_scikit_images_photographs(tmp_path: Path, network: Path) -> None:
    out = tmp_path / "out"
    ran = run("demo", "--out", out, "--json")
    assert ran.status == 0, ran.err
    rows, variants = ran.json["rows"], (LIVE, *VARIANTS)
    kept = {"1/2": 0.5, "1/4": 0.25, "1/8": 0.125}
    assert [row["method"] for row in rows[:2]] == ["bicubic", "dense"]
    assert [row["achieved"] for row in rows[:2]] == [None, 1.0]
    assert {(row["method"], row["budget"]) for row in rows[2:]} == {
        (method, kept[budget]) for method, budget in variants
    }
    for row in rows[2:]:
        if row["method"] == "one-shot":
            assert row["achieved"] == row["budget"]
        else:  # a unit of one layer may not fit any more
            assert 0.9 * row["budget"] <= row["achieved"] <= row["budget"]
    assert [row["ms"] is None for row in rows] == [True, *[native() is None] * (len(rows) - 1)]
    assert all(earlier["macs"] >= later["macs"] for earlier, later in pairwise(rows[1:]))
    solved = [row for row in rows if row["method"] == "least-squares"]
    assert all(earlier["bytes"] > later["bytes"] for earlier, later in pairwise(solved))
    _check_shipped(ran.json["published"], ["drawing", "photograph"])
    page = (out / "report.html").read_text()
    assert page.count('class="viewer"') == 1 + 4  # a photograph, and those of shipped networks
    assert all(f"{method} {budget}" in page for method, budget in variants)
    assert len(page) < 5_000_000
    table = (out / "table.md").read_text().splitlines()
    assert table[2].startswith("| bicubic ")
    assert sum(line.startswith("| realesr") for line in table) == 2
    with Image.open(out / "restored" / "chelsea.png") as restored:
        assert restored.size == (448, 300)
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width == 8 + (1 + len(rows)) * (192 + 8)
    assert len(list((out / "checkpoints").glob("*/config.json"))) == len(variants)
    lines = [line for line in ran.err.splitlines() if " of 3, about " in line]
    assert [line[0] for line in lines] == ["1", "2", "3"]


def _check_shipped(rows: list[dict[str, Any]], enlarged: list[str]) -> None:
    """Are the shipped networks close to their dense ones, and do they improve what they get?"""
    assert [row["image"] for row in rows if row["network"].startswith("realesr")] == enlarged
    assert all(row["psnr"] > 28 for row in rows)
    damaged = [row for row in rows if row["input_psnr"] is not None]
    assert damaged
    assert all(row["thin_psnr"] > row["input_psnr"] for row in damaged)


def test_the_report_is_valid_after_the_first_table(tmp_path: Path, network: Path) -> None:
    def stop(table: Table) -> None:
        assert len(table.rows) == 4
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path / "out", network=str(network), show=stop)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('class="viewer"') == 4
    assert page.count("x faster") == 4
    assert page.endswith("</html>\n")
    assert (tmp_path / "out" / "table.md").is_file()


def test_pictures_of_the_user_in_any_format(tmp_path: Path, network: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 2**16, (13, 15), dtype=np.uint16)
    Image.fromarray(levels).resize((130, 110), Image.Resampling.BICUBIC).save(tmp_path / "a.tif")
    (colour,) = photographs.skimage_photographs(("chelsea.png",))
    with Image.open(colour) as image:
        image.crop((0, 0, 140, 100)).convert("RGBA").save(tmp_path / "a.webp")
    out = tmp_path / "out"
    ran = run("demo", "--image", tmp_path / "a.tif", tmp_path / "a.webp", "--out", out, "--json")
    assert ran.status == 0, ran.err
    assert [row["method"] for row in ran.json["rows"]] == ["bicubic", "dense", LIVE[0]]
    assert ran.json["restored"] == 2
    assert len(ran.json["published"]) == 6
    page = (out / "report.html").read_text()
    assert page.count('class="viewer"') == 2 + 6
    assert "--image a.tif a.webp" in page


def test_pictures_that_cannot_be_compared_are_one_sentence(tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.new("RGB", (95, 200)).save(small)
    for words, sentence in (
        ([small], "small.png has 95x200 pixels: wanted at least 96x96"),
        ([tmp_path / "none.png"], "none.png"),
        ([small] * 7, "7 pictures: wanted at most 6 at a time"),
    ):
        ran = run("demo", "--image", *words, "--out", tmp_path / "out", "--json")
        assert ran.status == 2
        assert sentence in ran.json["error"]
    assert not (tmp_path / "out").exists()


def test_written_pairs_are_the_only_ones(tmp_path: Path) -> None:
    task = make_task("sr", scale=4)
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    photographs.write_pairs(task, {"one": picture, "two": picture}, tmp_path)
    photographs.write_pairs(task, {"two": picture}, tmp_path)
    assert [path.name for path in sorted(tmp_path.rglob("*.png"))] == ["two.png"] * 2


def test_the_readme_has_the_columns_of_the_demo() -> None:
    columns = demo_columns(["Set5", "Set14"])
    readme = Path(__file__).parents[1] / "README.md"
    assert f"| {' | '.join(columns)} |" in readme.read_text().splitlines()


@pytest.mark.needs_data
@pytest.mark.slow
def test_standard_sets_have_their_folders(data: Path) -> None:
    sources = photographs.benchmark_sources(make_task("sr", scale=4), data)
    assert list(sources.tests) == ["Set5", "Set14"]
    assert len(sources.crops.inputs) == photographs.MAX_CALIBRATION_IMAGES
    assert all((folder / "LR").is_dir() for folder in sources.tests.values())
