"""Test sets in the layouts that people have: one figure for all, or a refusal; never a mixture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cli_cases import images, run, sr_checkpoint
from thinlens.errors import UsageError
from thinlens.images.reading import read_image
from thinlens.images.resize import bicubic_downsample
from thinlens.images.writing import write_png
from thinlens.tasks import make_task
from thinlens.tasks.description import describe_pairs
from thinlens.tasks.folders import open_pairs, training_crops
from thinlens.tasks.input_crops import input_files

SCALE = 2
TASK = make_task("sr", scale=SCALE)

LAYOUTS = {
    "HR/ with LR/": ("HR/{}.png", "LR/{}.png"),
    "GTmod12/ with LRbicx2/": ("GTmod12/{}.png", "LRbicx2/{}.png"),
    "HR/ with LR_bicubic/X2/": ("HR/{}.png", "LR_bicubic/X2/{}x2.png"),
    "such as image_SRF_2/img_0_SRF_2_HR.png with image_SRF_2/img_0_SRF_2_LR.png": (
        "image_SRF_2/img_{}_SRF_2_HR.png",
        "image_SRF_2/img_{}_SRF_2_LR.png",
    ),
    "DIV2K_valid_HR/ with DIV2K_valid_LR_bicubic/X2/": (
        "DIV2K_valid_HR/{}.png",
        "DIV2K_valid_LR_bicubic/X2/{}x2.png",
    ),
    "gt/ with lq/": ("gt/{}.png", "lq/{}.png"),
    "GT/ with LQ/": ("GT/{}.png", "LQ/{}.png"),
    "target/ with input/": ("target/{}.png", "input/{}.png"),
    "such as 0_HR.png with 0_LR.png": ("{}_HR.png", "{}_LR.png"),
    "such as 0_gt.png with 0_lq.png": ("{}_gt.png", "{}_lq.png"),
}
"""By what `evaluate` says: the names of targets and of inputs."""

UNKNOWN = {
    "names of its own": ("original/{}.png", "reduced/{}.png"),
    "a scale": ("{}.png", "small/{}x2.png"),
    "in one folder": ("{}.png", "{}x2.png"),
    "other words": ("set/a-HR/{}.png", "set/a-LR/{}.png"),
    "one folder down": ("Set5/HR/{}.png", "Set5/LR/{}.png"),
}
"""Pairs that no layout knows: names of targets and of inputs."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Tensor, Tensor]]:
    folder = images(tmp_path_factory.mktemp("pictures"), 3, 48, 40)
    clean = [read_image(path) for path in sorted(folder.iterdir())]
    return [(image, bicubic_downsample(image, SCALE)) for image in clean]


Writer = Callable[[Path, str, str], Path]


@pytest.fixture
def write(pictures: list[tuple[Tensor, Tensor]]) -> Writer:
    def write_pairs(folder: Path, targets: str, inputs: str) -> Path:
        for index, (target, reduced) in enumerate(pictures):
            for name, image in ((targets, target), (inputs, reduced)):
                path = folder / name.format(index)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_png(path, image)
        return folder

    return write_pairs


def test_evaluate_prints_one_figure_for_all_layouts(tmp_path: Path, write: Writer) -> None:
    network = sr_checkpoint(tmp_path / "network")
    figures = set()
    for index, (words, names) in enumerate(LAYOUTS.items()):
        folder = write(tmp_path / str(index), *names)
        ran = run("evaluate", network, "--data", folder, "--engine", "torch", "--json")
        assert ran.status == 0, ran.err
        assert ran.json["images"] == 3
        assert ran.json["data"].startswith("3 pairs")
        assert ran.json["data"].endswith(words)
        figures.add((ran.json["psnr"], ran.json["ssim"]))
    assert len(figures) == 1


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_looks_like_pairs_in_no_layout_is_refused(
    kind: str, tmp_path: Path, write: Writer
) -> None:
    folder = write(tmp_path, *UNKNOWN[kind])
    with pytest.raises(UsageError, match=r"holds .*: wanted LR and HR .*; or --data with"):
        open_pairs(folder, TASK)
    with pytest.raises(UsageError, match="or --data with"):
        training_crops(TASK, folder, patch=8)
    with pytest.raises(UsageError, match="or --data with"):
        input_files(folder, TASK, 8)


def test_a_blurred_copy_under_another_folder_is_refused(tmp_path: Path) -> None:
    for index in range(2):
        sharp = read_image(sorted(images(tmp_path / "x", 2).iterdir())[index])
        soft = bicubic_downsample(sharp, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
        write_png(tmp_path / "data" / "one" / f"{index}.png", sharp)
        write_png(tmp_path / "data" / "two" / f"{index}.png", soft)
    with pytest.raises(UsageError, match=r"one picture in one/0\.png and two/0\.png"):
        open_pairs(tmp_path / "data", make_task("deblur"))


def test_clean_images_stay_clean(tmp_path: Path) -> None:
    """Frames of two videos and formats of one picture share names without being pairs."""
    for index, video in enumerate(("000", "001")):
        for frame in range(3):
            picture = read_image(sorted(images(tmp_path / "x", 8).iterdir())[3 * index + frame])
            write_png(tmp_path / "videos" / video / f"{frame:08}.png", picture)
    assert len(open_pairs(tmp_path / "videos", TASK)) == 6
    write_png(tmp_path / "copies" / "a.png", picture)
    write_png(tmp_path / "copies" / "a.tif", picture)
    pairs = open_pairs(tmp_path / "copies", TASK)
    assert [pair.input for pair in pairs] == [None, None]
    line = "inputs made by bicubic reduction by 2 of 2 clean images"
    assert describe_pairs(pairs, tmp_path, TASK) == line


@pytest.mark.parametrize("first", ["inputs", "targets"])
@pytest.mark.parametrize("separator", [" ", "\t", ", "])
def test_a_list_of_pairs_is_read(first: str, separator: str, tmp_path: Path, write: Writer) -> None:
    folder = write(tmp_path, "large/{}.png", "small/{}.png")
    order = ("small", "large") if first == "inputs" else ("large", "small")
    rows = [separator.join(f"{side}/{index}.png" for side in order) for index in range(3)]
    listed = tmp_path / "pairs.txt"
    listed.write_text("# of a camera\n\n" + "\n".join(rows) + "\n", encoding="utf-8")
    for place in (listed, folder):
        pairs = open_pairs(place, TASK)
        assert [pair.input for pair in pairs] == [tmp_path / f"small/{x}.png" for x in range(3)]
        assert [pair.target for pair in pairs] == [tmp_path / f"large/{x}.png" for x in range(3)]
        assert describe_pairs(pairs, place, TASK) == "3 pairs: large/ with small/"
    assert training_crops(TASK, listed, patch=8).degraded
    assert len(input_files(listed, TASK, 8).paths) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "lists no pairs"),
        ("small/0.png", "line 1 .* names 1 files: wanted INPUT TARGET"),
        ("small/0.png large/0.png\nsmall/9.png large/9.png", "line 2 .*small/9.png is no image"),
        ("small/0.png small/1.png", "not 2 times as large as their inputs: 1.png"),
    ],
)
def test_a_wrong_list_is_refused(text: str, sentence: str, tmp_path: Path, write: Writer) -> None:
    write(tmp_path, "large/{}.png", "small/{}.png")
    (tmp_path / "pairs.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=sentence):
        open_pairs(tmp_path / "pairs.txt", TASK)


def test_names_order_the_columns_of_a_list_of_one_scale(tmp_path: Path) -> None:
    for name in ("a_sharp", "a_blur"):
        write_png(tmp_path / f"{name}.png", torch.zeros(3, 16, 16, dtype=torch.uint8))
    (tmp_path / "list.csv").write_text("a_sharp.png,a_blur.png\n", encoding="utf-8")
    (pair,) = open_pairs(tmp_path / "list.csv", make_task("deblur"))
    assert (pair.input, pair.target) == (tmp_path / "a_blur.png", tmp_path / "a_sharp.png")


def test_lists_by_split(tmp_path: Path, write: Writer) -> None:
    folder = write(tmp_path, "large/{}.png", "small/{}.png")
    (tmp_path / "train.txt").write_text("small/0.png large/0.png", encoding="utf-8")
    (tmp_path / "test.txt").write_text("small/1.png large/1.png", encoding="utf-8")
    (tmp_path / "meta_info.txt").write_text("0.png (48,40,3)", encoding="utf-8")
    assert [pair.name for pair in open_pairs(folder, TASK, "train")] == ["small/0"]
    assert [pair.name for pair in open_pairs(folder, TASK, "test")] == ["small/1"]
    (tmp_path / "train.txt").rename(tmp_path / "more.txt")
    (tmp_path / "test.txt").rename(tmp_path / "others.txt")
    with pytest.raises(UsageError, match=r"several lists of pairs \(more.txt, others.txt\)"):
        open_pairs(folder, TASK)


def test_train_and_prune_say_what_was_taken(tmp_path: Path, write: Writer) -> None:
    folder = write(tmp_path / "set", "HR/{}.png", "LR_bicubic/X2/{}x2.png")
    (tmp_path / "recipe.toml").write_text("[network]\nwidth = 4\nblocks = 1\n", encoding="utf-8")
    recipe = ("--recipe", tmp_path / "recipe.toml", "--steps", 1, "--scale", 2)
    (tmp_path / "recipe.toml").write_text("[crops]\npatch = 8\n[network]\nwidth = 4\nblocks = 1\n")
    line = "3 pairs: HR/ with LR_bicubic/X2/"
    ran = run("train", "edsr", "--data", folder, "--out", tmp_path / "run", *recipe)
    assert ran.status == 0, ran.err
    assert f"data: {line}" in ran.out
    network = sr_checkpoint(tmp_path / "network")
    ran = run(
        *("prune", "least-squares", network, "--budget", "1/2", "--m", 4, "--patch", 8),
        *("--data", folder, "--out", tmp_path / "thin", "--json"),
    )
    assert ran.status == 0, ran.err
    assert ran.json["data"] == line
    assert line in ran.err
