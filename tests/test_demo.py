"""The demo: pruned networks, restored photographs, a report."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from PIL import Image

from cli_cases import run, sr_checkpoint
from thinlens.engine.native import native
from thinlens.errors import UsageError
from thinlens.experiments import photographs
from thinlens.experiments.demo_networks import VARIANTS
from thinlens.tasks import make_task
from thinlens.training.settings import Settings


def test_calibration_and_test_scenes_are_disjoint() -> None:
    assert not set(photographs.CALIBRATION_FILES) & set(photographs.TEST_FILES)


def test_without_scikit_image_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--data DIR.*thinlens\[demo\]"):
        photographs.skimage_photographs(photographs.TEST_FILES)


@pytest.mark.slow
def test_the_demo_on_scikit_images_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    sr = sr_checkpoint(tmp_path / "sr", scale=4, width=16, attention_width=8)
    monkeypatch.setattr("thinlens.cli.demo.NETWORK", str(sr))
    short = Settings(steps=12, learning_rate=1e-3, warmup=2)
    monkeypatch.setattr("thinlens.experiments.demo_networks.SEARCH", short)
    monkeypatch.setattr("thinlens.experiments.demo_published.PUBLISHED_ROUNDS", 1)
    monkeypatch.setattr(photographs, "TEST_FILES", ("chelsea.png",))
    monkeypatch.delenv("THINLENS_DATA", raising=False)
    out = tmp_path / "out"
    ran = run("demo", "--out", out, "--json")
    assert ran.status == 0, ran.err
    rows = ran.json["rows"]
    kept = {"1/2": 0.5, "1/4": 0.25, "1/8": 0.125}
    assert [row["method"] for row in rows] == ["bicubic", "dense", *(name for name, _ in VARIANTS)]
    assert [row["achieved"] for row in rows[:2]] == [None, 1.0]
    for row, (method, budget) in zip(rows[2:], VARIANTS, strict=True):
        if method == "one-shot":
            assert row["achieved"] == kept[budget]
        else:  # a unit of one layer may not fit any more
            assert 0.9 * kept[budget] <= row["achieved"] <= kept[budget]
    assert [row["ms"] is None for row in rows] == [True, *[native() is None] * 8]
    solved = [row for row in rows if row["method"] == "least-squares"]
    for earlier, later in itertools.pairwise(solved):
        assert later["bytes"] < earlier["bytes"]
        assert later["macs"] < earlier["macs"]
    published = ran.json["published"]
    assert [row["image"] for row in published] == ["drawing", "photograph"]
    assert all(row["psnr"] > 33 for row in published)
    page = (out / "report.html").read_text()
    assert page.count('class="viewer"') == 1 + 2  # a photograph, and two of the published network
    assert all(f"{method} {budget}" in page for method, budget in VARIANTS)
    assert len(page) < 5_000_000
    assert len((out / "table.md").read_text().splitlines()) == 2 + len(rows)
    with Image.open(out / "restored" / "chelsea.png") as restored:
        assert restored.size == (448, 300)
    assert len(list((out / "checkpoints").glob("*/config.json"))) == len(VARIANTS)


@pytest.mark.needs_data
@pytest.mark.slow
def test_standard_sets_have_their_folders(data: Path) -> None:
    sources = photographs.benchmark_sources(make_task("sr", scale=4), data)
    assert list(sources.tests) == ["Set5", "Set14"]
    assert len(sources.crops.inputs) == photographs.MAX_CALIBRATION_IMAGES
    assert all((folder / "LR").is_dir() for folder in sources.tests.values())
