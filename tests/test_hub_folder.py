"""Folders for model hubs: the shipped ones are complete, and each gap is one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli_cases import denoising_checkpoint, run
from thinlens.checkpoints.hub_folder import hub_problems, read_card
from thinlens.checkpoints.shipped import WEIGHTS, list_shipped
from thinlens.errors import UsageError

pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", list_shipped())
def test_shipped_checkpoints_are_ready(name: str) -> None:
    assert hub_problems(WEIGHTS / name) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = denoising_checkpoint(tmp_path / "thin")
    assert run("push-ready", path, "--licence", "apache-2.0").status == 0
    return path


def test_a_card_is_written_once(folder: Path) -> None:
    card, text = read_card(folder / "README.md")
    assert card["license"] == "apache-2.0"
    assert (card["library_name"], card["pipeline_tag"]) == ("thinlens", "image-to-image")
    assert 'thinlens.load("thin")' in text
    ran = run("push-ready", folder, "--licence", "mit")
    assert ran.status == 2
    assert "exists" in ran.err
    assert read_card(folder / "README.md")[0] == card


CARD = "---\nlicense: mit\nlibrary_name: thinlens\npipeline_tag: image-to-image\n---\n" + "a" * 99

GAPS = {
    "no card": (CARD.replace("---\n", "", 1), "has no card"),
    "not YAML": (CARD.replace("mit", "[mit"), "is no YAML"),
    "a list": ("---\n- mit\n---\n" + "a" * 99, "is no mapping"),
    "no licence": (CARD.replace("license: mit\n", ""), "license is None"),
    "a licence in words": (CARD.replace("mit", "The MIT licence"), "wanted an identifier"),
    "another licence": (CARD.replace("mit", "other"), "license_name and license_link"),
    "another library": (CARD.replace("thinlens", "timm"), "library_name is 'timm'"),
    "another pipeline": (CARD.replace("image-to", "text-to"), "pipeline_tag is 'text-to-image'"),
    "no text": (CARD.replace("a" * 99, "a"), "1 characters of text"),
}


@pytest.mark.parametrize("name", GAPS)
def test_a_gap_of_the_card_is_one_sentence(name: str, folder: Path) -> None:
    text, sentence = GAPS[name]
    (folder / "README.md").write_text(text)
    ran = run("push-ready", folder, "--json")
    assert ran.status == 1
    assert not ran.json["ready"]
    assert len(ran.json["problems"]) == 1
    assert sentence in ran.json["problems"][0]


def test_a_complete_card_has_no_gap(folder: Path) -> None:
    (folder / "README.md").write_text(CARD)
    assert hub_problems(folder) == []


def test_files_that_run_code_and_damaged_weights_are_problems(folder: Path) -> None:
    (folder / "training.pt").write_bytes(b"pickle")
    (folder / "link").symlink_to(folder / "config.json")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    problems = " ".join(hub_problems(folder))
    for sentence in ("training.pt is a pickle", "link is a link", "it is damaged"):
        assert sentence in problems


def test_no_folder_and_no_readme(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        hub_problems(tmp_path / "none")
    (folder / "README.md").unlink()
    assert "--licence" in hub_problems(folder)[0]
    assert run("push-ready", folder, "--licence", "My Licence").status == 2
    assert not (folder / "README.md").exists()


def test_a_folder_at_any_place_is_pushed(folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    assert hub_problems(Path(moved)) == []


def test_the_citation_file_has_what_readers_want() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    assert citation["version"] in (ROOT / "pyproject.toml").read_text()
    assert all(work["authors"] and work["year"] for work in citation["references"])
