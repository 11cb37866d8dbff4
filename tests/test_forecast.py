"""What `restore` would do, and what it would look like."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cli_cases import run, sr_checkpoint
from photograph_files import TABLE
from thinlens.errors import UsageError
from thinlens.experiments.preview import PreviewModel, Region, preview
from thinlens.images.decoding import DecodeOptions, open_photograph, photograph_size
from thinlens.images.reading import read_image
from thinlens.images.writing import write_png
from thinlens.restoration.folder import restore_folder
from thinlens.restoration.forecast import forecast
from thinlens.restoration.options import RestoreOptions
from thinlens.tasks import make_task

TASK = make_task("sr", scale=2)


def twice(image: Tensor) -> Tensor:
    return F.interpolate(image, scale_factor=2)


@pytest.mark.parametrize("case", sorted(TABLE))
def test_sizes_are_those_of_the_decoded_image(case: str, tmp_path: Path) -> None:
    suffix, write = TABLE[case]
    write(tmp_path / f"in{suffix}")
    _, height, width = open_photograph(tmp_path / f"in{suffix}").colours.shape
    assert photograph_size(tmp_path / f"in{suffix}") == (height, width)


def test_a_forecast_names_what_will_be_done(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "deep/c.png"):
        write_png(tmp_path / "in" / name, torch.zeros(3, 8, 12, dtype=torch.uint8))
    (tmp_path / "in" / "bad.png").write_text("no image")
    (tmp_path / "in" / "notes.txt").touch()
    restore_folder(twice, TASK, tmp_path / "in" / "a.png", tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    options = RestoreOptions(size="3x", format="jpeg")
    plan = forecast(twice, TASK, tmp_path / "in", tmp_path / "fresh", options=options)
    assert sorted(tmp_path.rglob("*")) == before
    states = [(image.path, image.state) for image in plan.images]
    assert states == [
        ("a.png", "restore"),
        ("b.png", "restore"),
        ("bad.png", "refused"),
        ("deep/c.png", "restore"),
    ]
    assert (plan.images[0].size, plan.images[0].result_size) == ((12, 8), (36, 24))
    assert plan.not_taken == ("notes.txt",)
    assert plan.seconds > 0
    assert 0 < plan.bytes < plan.free_bytes
    done = restore_folder(twice, TASK, tmp_path / "in", tmp_path / "fresh", options=options)
    assert done.done == 3
    outputs = {path.relative_to(tmp_path / "fresh").as_posix() for path in
               (tmp_path / "fresh").rglob("*.jpg")}  # fmt: skip
    assert outputs == {image.output for image in plan.images if image.state == "restore"}
    again = forecast(twice, TASK, tmp_path / "in", tmp_path / "fresh", options=options)
    assert (again.count("done"), again.count("restore"), again.seconds) == (3, 0, 0.0)


def test_a_preview_shows_every_network(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 90, 120), generator=generator).to(torch.uint8)
    write_png(tmp_path / "a.png", image)
    models = [PreviewModel("twice", twice, 3), PreviewModel("same", lambda x: x, 3)]
    result = preview(tmp_path / "a.png", tmp_path / "out", Region(40, 50, 30, 20), models)
    assert set(result.seconds_per_megapixel) == {"twice", "same"}
    sheet = read_image(result.path)
    # the second panel, after two margins of 8 pixels: the region, enlarged twice
    panel = sheet[:, 8 : 8 + 40, 8 + 60 + 8 : 8 + 60 + 8 + 60]
    part = image[:, 50:70, 40:70].repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(panel, part)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,0,4", "-1,2,3,4", "a,b,c,d"])
def test_other_regions_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="wanted X,Y,W,H"):
        Region.parse(text)


def test_a_region_beyond_the_image_is_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", torch.zeros(3, 8, 12, dtype=torch.uint8))
    with pytest.raises(UsageError, match="has 12x8 pixels"):
        preview(tmp_path / "a.png", tmp_path, Region(8, 0, 5, 4), [], DecodeOptions())


def test_both_on_the_command_line(tmp_path: Path) -> None:
    model = sr_checkpoint(tmp_path / "model")
    Image.new("RGB", (40, 30), (9, 99, 199)).save(tmp_path / "a.png")
    sources = ("restore", tmp_path / "a.png", "--model", model)
    words = (*sources, "--out", tmp_path / "out", "--engine", "torch")
    ran = run(*words, "--dry-run", "--json")
    assert ran.status == 0
    assert len(ran.json["planned"]) == 1
    assert not (tmp_path / "out").exists()
    ran = run(*words, "--preview", "0,0,20,20", "--json")
    assert ran.status == 0
    assert Path(ran.json["preview"]).name == "a.png.preview.png"
    assert Path(ran.json["preview"]).exists()


def test_restore_on_the_command_line_keeps_and_names(tmp_path: Path) -> None:
    model, out = sr_checkpoint(tmp_path / "model"), tmp_path / "out"
    (tmp_path / "in").mkdir()
    TABLE["RGBA png"][1](tmp_path / "in" / "a.png")
    TABLE["L jpeg exif xmp iptc dpi icc"][1](tmp_path / "in" / "b.jfif.jpg")
    for index in range(7):
        (tmp_path / "in" / f"{index}.gif").touch()
    words = ("restore", tmp_path / "in", "--model", model, "--out", out, "--engine", "torch")
    ran = run(*words, "--format", "webp", "--size", "3x", "--strength", "0.5", "--strip")
    assert ran.status == 0
    assert "7 files were not taken: 0.gif, 1.gif, 2.gif, 3.gif, 4.gif and 2 more" in ran.out
    assert {path.name for path in out.iterdir()} == {"a.webp", "b.jfif.webp", "manifest.jsonl"}
    assert photograph_size(out / "a.webp") == (18, 27)
    one = run(
        *words[:1], tmp_path / "in" / "a.png", *words[2:4], "--out", tmp_path / "b.jpg", *words[6:]
    )
    assert (one.status, (tmp_path / "b.jpg").exists()) == (0, True)
    bad = run(*words, "--format", "webp", "--size", "huge", "--json")
    assert bad.status == 2
    assert bad.json["error"].startswith("--size 'huge': wanted WIDTHxHEIGHT")
    assert run(*words, "--format", "gif").status == 2
    several = run("restore", "--model", model, "--out", out)
    assert "no source" in several.err
