"""Does the demo walk the whole line and show it?"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from PIL import Image

from cli_cases import run, sr_checkpoint
from thinlens.cli import photographs
from thinlens.engine.native import native
from thinlens.errors import UsageError
from thinlens.tasks import make_task


def test_no_scene_both_calibrates_and_judges() -> None:
    assert not set(photographs.TO_CALIBRATE) & set(photographs.TO_TEST)


def test_without_scikit_image_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--data DIR.*thinlens\[demo\]"):
        photographs.photographs(photographs.TO_TEST)


@pytest.mark.slow
def test_the_demo_on_scikit_images_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    sr = sr_checkpoint(tmp_path / "sr", scale=4, width=32, attention_width=16)
    monkeypatch.setattr("thinlens.cli.demo.NETWORK", str(sr))
    monkeypatch.setattr(photographs, "TO_TEST", ("chelsea.png",))
    monkeypatch.delenv("THINLENS_DATA", raising=False)
    out = tmp_path / "out"
    ran = run("demo", "--out", out, "--json")
    assert ran.status == 0, ran.err
    rows = ran.json["rows"]
    assert [row["method"] for row in rows] == ["bicubic", "dense"] + [
        "one-shot",
        "least-squares",
    ] * 2
    assert [row["achieved"] for row in rows] == [None, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert [row["ms"] is None for row in rows] == [True, *[native() is None] * 5]
    for earlier, later in itertools.pairwise(rows[1:]):
        assert later["bytes"] <= earlier["bytes"]
        assert later["macs"] <= earlier["macs"]
    page = (out / "report.html").read_text()
    links = re.findall('src="([^"]*)"', page)
    assert len(links) == 1 + 2
    for link in links:
        with Image.open(out / link) as picture:
            assert picture.format == "PNG"
    assert len((out / "table.md").read_text().splitlines()) == 2 + len(rows)
    with Image.open(out / "restored" / "chelsea.png") as restored:
        assert restored.size == (448, 300)
    assert len(list((out / "checkpoints").glob("*/config.json"))) == 4


@pytest.mark.needs_data
@pytest.mark.slow
def test_standard_sets_are_found_and_disjoint_from_calibration(data: Path) -> None:
    sources = photographs.standard_sources(make_task("sr", scale=4), data)
    assert list(sources.tests) == ["Set5", "Set14"]
    assert len(sources.crops.inputs) == photographs.MOST_TO_CALIBRATE
    assert all((folder / "LR").is_dir() for folder in sources.tests.values())
