"""The report's page: complete, escaped, of limited size, and without anything from a network."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cli_cases import images, run, sr_checkpoint
from report_cases import NASTY, picture, report_image, small_report
from thinlens.api import adapt, load_checkpoint, prune, save
from thinlens.errors import UsageError
from thinlens.experiments.report_runs import read_runs
from thinlens.report import interactive
from thinlens.report.contents import ReportContents, ReportNetwork
from thinlens.report.embedding import difference_image, embed
from thinlens.report.headline import headline
from thinlens.report.interactive import interactive_page, networks_table, write_interactive

VOID = {"meta", "img", "input", "br"}
MOST_BYTES = 5_000_000


class Structure(HTMLParser):
    """Checks that tags are closed in order; collects tags, attributes, identities and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(scope="module")
def page() -> str:
    return interactive_page(small_report())


def test_tags_are_closed_and_labelled(page: str) -> None:
    structure = Structure(page)
    assert structure.tags.count("h1") == 1
    # viewers, routes, two charts, times, a curve
    assert structure.tags.count("figure") == 2 * (1 + 3 + 2) + 1 + 2 + 1 + 1
    alternatives = [value for key, value in structure.attributes if key == "alt"]
    assert len(alternatives) == structure.tags.count("img") == 2 * (3 + 2)
    assert all(alternatives)
    identities = [value for key, value in structure.attributes if key == "id"]
    assert len(set(identities)) == len(identities)
    assert ("lang", "en") in structure.attributes


def test_nothing_is_loaded(page: str) -> None:
    structure = Structure(page)
    for key, value in structure.attributes:
        if key in ("src", "href", "srcset", "poster"):
            assert value.startswith("data:image/webp;base64,")
    assert "default-src 'none'" in page
    without_names = page.replace("http://www.w3.org/2000/svg", "")  # a name of XML, not an address
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp|import\(", without_names)


def test_names_cannot_break_the_page(page: str) -> None:
    assert "<b>&" not in page
    text = " ".join(Structure(page).text)
    assert f"A, {NASTY}" in text
    data = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert data
    assert json.loads(data[1])["networks"][1]["layers"][1]["name"] == NASTY


def test_the_first_screen_says_what_was_made_of_what(page: str) -> None:
    text = " ".join(Structure(page).text)
    first = text[: text.index("All networks")]
    for words in ("thin 1/4", "net-x4", "4.0 x smaller", "25% of the work", "4.00 x faster"):
        assert words in first
    assert "-0.25 dB" in first
    assert "2.0 instead of 8.0 ms" in first
    assert "without javascript" in page.lower()


def test_the_worst_image_is_first(page: str) -> None:
    names = re.findall(r"<h3>(.*?)</h3>", page)
    assert names == ["A, &lt;/script&gt;&lt;b&gt;&amp;&quot;&#x27;", "A, one"]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_images_are_sorted_by_what_they_lose(losses: list[float]) -> None:
    contents = ReportContents([], images=[report_image(str(x), x) for x in losses])
    sorted_losses = [image.loss for image in contents.worst_first]
    assert sorted_losses == sorted(sorted_losses, reverse=True)
    assert len(sorted_losses) == len(losses)


def network(name: str, macs: int, psnr: float | None, dense: bool = False) -> ReportNetwork:
    return ReportNetwork(name, dense, macs=macs, psnr={} if psnr is None else {"A": psnr})


def test_the_network_at_the_top_is_the_cheapest_that_loses_little() -> None:
    dense = network("dense", 100, 30.0, dense=True)
    good, cheap, worse = network("b", 50, 29.9), network("c", 25, 29.6), network("d", 10, 28.0)
    assert ReportContents([dense, good, cheap, worse]).featured is cheap
    assert ReportContents([dense, worse, network("e", 5, 27.0)]).featured is worse
    best, last = network("h", 26, 29.8), network("i", 25, 29.55)
    assert ReportContents([dense, cheap, best, last]).featured is best  # one budget, three methods
    assert ReportContents([dense]).featured is None
    unscored = [network("dense", 9, None, dense=True), network("f", 5, None), network("g", 2, None)]
    assert ReportContents(unscored).featured is unscored[2]


def test_what_was_not_measured_is_not_mentioned() -> None:
    dense, thin = network("dense", 100, None, dense=True), network("thin", 50, None)
    figures = [value for value, _ in headline(ReportContents([dense, thin]))[2]]
    assert figures == ["50% of the work"]
    text = " ".join(Structure(interactive_page(ReportContents([dense, thin]))).text)
    for words in ("dB", " x faster", "image", "PSNR", "layer", "How it was measured"):
        assert words not in text.partition("the tables hold all figures.")[2]
    assert headline(ReportContents([], dense_name="net"))[0] == "net"


def test_every_network_has_a_row() -> None:
    table = networks_table(small_report())
    assert [row[0] for row in table.rows] == ["dense", "thin 1/4", "thin 1/8", "not timed"]
    assert table.rows[3][-3:] == ("-", "-", "-")


def test_pictures_are_lossless_where_they_fit() -> None:
    image = picture(0)
    (link,), quality = embed([image], 1_000_000)
    assert quality == 100
    with Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))) as stored:
        decoded = torch.from_numpy(np.array(stored.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(decoded, image)


@given(st.integers(1, 4), st.integers(4_000, 60_000))
def test_the_best_quality_that_fits(number: int, most: int) -> None:
    pictures = [picture(i, 64, 64, channels=1 + 2 * (i % 2)) for i in range(number)]
    links, quality = embed(pictures, most)
    assert len(links) == number
    if sum(map(len, links)) > most:
        assert quality == 40


def test_differences_are_enlarged_and_symmetric() -> None:
    a, b = picture(1), picture(2)
    assert torch.equal(difference_image(a, b), difference_image(b, a))
    assert not difference_image(a, a).any()


def test_the_page_stays_below_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interactive, "MOST_PICTURE_BYTES", 60_000)
    many = replace(small_report(), images=[report_image(str(i), 0.1, i) for i in range(6)])
    write_interactive(tmp_path / "a.html", many)
    assert (tmp_path / "a.html").stat().st_size < 60_000 + 60_000
    assert "images that lose less did not fit" in (tmp_path / "a.html").read_text()
    assert "lossless" not in (tmp_path / "a.html").read_text()
    assert interactive.MOST_PICTURE_BYTES < MOST_BYTES


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    dense = load_checkpoint(sr_checkpoint(folder / "dense"))
    thin = prune(dense, budget="1/2", method="one-shot", m=4, size=(24, 24))
    save(folder / "thin", thin, model="rfdn", task=dense.task)
    images(folder / "clean", 3, 48, 64)
    return folder


def test_a_report_of_two_checkpoints(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    words = ("--data", runs / "clean", "--rounds", 1, "--size", "24x16", "--images", 2, "--json")
    ran = run("report", runs / "thin", runs / "dense", "--out", out, *words)
    assert ran.status == 0, ran.err
    assert ran.json["networks"] == ["dense", "thin"]
    assert (ran.json["featured"], ran.json["images"]) == ("thin", 2)
    assert ran.json["bytes"] == out.stat().st_size < MOST_BYTES
    text = " ".join(Structure(out.read_text()).text)
    for part in ("SHA-256 of thin", "Made thin from dense", "command", "What each layer"):
        assert part in text


def test_a_folder_of_runs_is_all_its_checkpoints(runs: Path, tmp_path: Path) -> None:
    words = ("--data", runs / "clean", "--rounds", 0, "--images", 0, "--json")
    ran = run("report", runs, "--out", tmp_path / "a.html", *words)
    assert ran.json["networks"] == ["dense", "thin"]
    assert "Nothing was timed" in (tmp_path / "a.html").read_text()


def test_of_a_bundle_the_page_has_the_network_of_every_tile(runs: Path, tmp_path: Path) -> None:
    sources = [runs / "dense", runs / "thin"]
    bundle = adapt(sources, runs / "clean", tile=(8, 8), margin=1, steps=1)
    save(tmp_path / "below" / "bundle", bundle)
    words = ("--data", runs / "clean", "--rounds", 1, "--size", "24x16", "--images", 1, "--json")
    ran = run("report", tmp_path / "below", "--out", tmp_path / "a.html", "--beta", 0, *words)
    assert ran.status == 0, ran.err
    assert ran.json["networks"] == ["dense", "thin", "bundle"]
    page = (tmp_path / "a.html").read_text()
    counts = [int(count) for count in re.findall(r": (\d+) tiles?</li>", page)]
    tiles = re.search(r"bundle: (\d+) tiles of all test images", page)
    assert len(counts) == 3 and tiles and sum(counts) == int(tiles[1]) / 3
    assert page.count('<rect class="tile') == sum(counts)


def test_runs_of_one_name_are_told_apart(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "thin", tmp_path / "thin")
    loaded = read_runs([runs / "dense", runs / "thin", tmp_path / "thin"])
    paths = [folder.as_posix() for folder in (runs / "thin", tmp_path / "thin")]
    assert [run.name for run in loaded.networks] == ["dense", *paths]
    with pytest.raises(UsageError, match=r"2 runs are called .*dense: wanted each once"):
        read_runs([runs / "dense", runs / "dense"])


BAD = {
    "an unfinished run": ("clean", r"is not finished, or is no run: no config.json is in it"),
    "no dense network": ("thin", r"none is dense: wanted the dense one"),
    "nothing": ("nothing", r"is not a checkpoint"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_compared_is_one_sentence(name: str, runs: Path, tmp_path: Path) -> None:
    folder, sentence = BAD[name]
    ran = run("report", runs / folder, "--out", tmp_path / "a.html")
    assert ran.status == 2
    assert len(ran.err.splitlines()) == 1
    assert re.search(sentence, ran.err)
    assert not (tmp_path / "a.html").exists()


def test_prune_and_bench_write_a_page_on_request(runs: Path, tmp_path: Path) -> None:
    skimage = pytest.importorskip("skimage")
    assert skimage
    page, thin = tmp_path / "thin.html", tmp_path / "thin"
    budget = ("--method", "one-shot", "--budget", "1/2", "--m", 4)
    ran = run("prune", runs / "dense", *budget, "--out", thin, "--report", page)
    assert ran.status == 0, ran.err
    assert f"{page}: both networks compared" in ran.out
    assert page.read_text().count('class="viewer"') == 3
    quick = ("--size", "24x16", "--rounds", 1, "--against", "none")
    ran = run("bench", runs / "thin", *quick, "--report", tmp_path / "bench.html")
    assert ran.status == 0, ran.err
    text = " ".join(Structure((tmp_path / "bench.html").read_text()).text)
    assert "Engines" in text
    assert "thinlens" in text
    assert "input 24x16, batch 1" in text
