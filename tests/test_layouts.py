"""GoPro's and REDS's folders are read as they are unpacked; incomplete ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from thinlens.errors import UsageError
from thinlens.images.writing import write_png
from thinlens.tasks import make_task
from thinlens.tasks.folders import open_pairs, training_crops

DEBLUR = make_task("deblur")


def frames(folder: Path, *names: str, shade: int = 0, height: int = 20) -> None:
    for name in names:
        write_png(folder / f"{name}.png", torch.full((3, height, 24), shade, dtype=torch.uint8))


def gopro(folder: Path, *videos: str) -> None:
    for video in videos:
        for kind, shade in (("blur", 1), ("blur_gamma", 2), ("sharp", 3)):
            frames(folder / video / kind, "000001", "000002", shade=shade)


def reds(folder: Path, *splits: str) -> None:
    for split in splits:
        frames(folder / f"{split}_blur" / "000", "00000000")
        frames(folder / f"{split}_sharp" / "000", "00000000", shade=3)


def listed(folder: Path, split: str = "test") -> list[tuple[str, str, str]]:
    """Return the pairs' names, inputs and targets, relative to `folder`."""
    pairs = open_pairs(folder, DEBLUR, split)
    inputs = [pair.input.relative_to(folder).as_posix() for pair in pairs if pair.input]
    targets = [pair.target.relative_to(folder).as_posix() for pair in pairs]
    return list(zip([pair.name for pair in pairs], inputs, targets, strict=True))


def test_gopro_pairs_frames_within_a_video_and_takes_gamma(tmp_path: Path) -> None:
    gopro(tmp_path, "GOPR0384_11_00", "GOPR0385_11_01")
    rows = listed(tmp_path)
    assert [name for name, _, _ in rows] == [
        f"{video}/{frame}"
        for video in ("GOPR0384_11_00", "GOPR0385_11_01")
        for frame in ("000001", "000002")
    ]
    for name, blurry, sharp in rows:
        video, frame = name.split("/")
        assert blurry == f"{video}/blur_gamma/{frame}.png"
        assert sharp == f"{video}/sharp/{frame}.png"


def test_gopro_without_gamma_takes_the_other_blur(tmp_path: Path) -> None:
    frames(tmp_path / "a" / "blur", "1")
    frames(tmp_path / "a" / "sharp", "1")
    assert listed(tmp_path) == [("a/1", "a/blur/1.png", "a/sharp/1.png")]


@pytest.mark.parametrize("named", ["test", "val"])
def test_a_split_data_set_is_read_by_split(named: str, tmp_path: Path) -> None:
    gopro(tmp_path / "gopro" / "train", "seen")
    gopro(tmp_path / "gopro" / named, "unseen")
    reds(tmp_path / "reds" / "train", "train")
    reds(tmp_path / "reds" / named, named)
    reds(tmp_path / "flat", "train", named)
    for folder in ("gopro", "reds", "flat"):
        for split, stem in (("train", "train"), ("test", named)):
            for _, blurry, sharp in listed(tmp_path / folder, split):
                assert blurry.startswith(stem)
                assert sharp.startswith(stem)
    # a folder of one split is read for both
    assert listed(tmp_path / "gopro" / named, "train") == listed(tmp_path / "gopro" / named, "test")
    assert listed(tmp_path / "reds" / named, "train") == listed(tmp_path / "reds" / named, "test")


def test_training_pairs_alone_are_no_test(tmp_path: Path) -> None:
    gopro(tmp_path / "train", "seen")
    with pytest.raises(UsageError, match=r"holds pairs to train with alone .*wanted test or val"):
        open_pairs(tmp_path, DEBLUR, "test")


def test_frames_that_do_not_pair_are_listed_with_their_video(tmp_path: Path) -> None:
    gopro(tmp_path, "a", "b")
    frames(tmp_path / "a" / "blur_gamma", "extra")
    frames(tmp_path / "b" / "sharp", "more")
    frames(tmp_path / "b" / "sharp", "000002", height=18)
    with pytest.raises(UsageError) as caught:
        open_pairs(tmp_path, DEBLUR)
    sentence = str(caught.value)
    for part in (
        "blur_gamma has no sharp for a/extra",
        "sharp has no blur_gamma for b/more",
        "sharp is not exactly as large as blur_gamma for b/000002",
    ):
        assert part in sentence
    assert "\n" not in sentence


def test_an_incomplete_layout_is_refused_and_not_read_as_clean_images(tmp_path: Path) -> None:
    frames(tmp_path / "one" / "blur", "1")
    frames(tmp_path / "two" / "val_blur" / "000", "1")
    frames(tmp_path / "three" / "a" / "blur", "1")
    gopro(tmp_path / "three", "b")
    for folder, lack in (("one", "no sharp"), ("two", "no val_sharp"), ("three", "videos .*: a$")):
        with pytest.raises(UsageError, match=lack):
            open_pairs(tmp_path / folder, DEBLUR)


def test_videos_of_two_kinds_of_blur_are_not_mixed(tmp_path: Path) -> None:
    gopro(tmp_path, "a")
    frames(tmp_path / "b" / "blur", "1")
    frames(tmp_path / "b" / "sharp", "1")
    assert {blurry.split("/")[1] for _, blurry, _ in listed_of(tmp_path, "a")} == {"blur"}


def listed_of(folder: Path, video: str) -> list[tuple[str, str, str]]:
    return [row for row in listed(folder) if row[0].startswith(video)]


def test_a_missing_folder_error_names_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_pairs(tmp_path / "GoPro", DEBLUR)
    for part in ("is not a folder", "VIDEO/blur", "train_sharp/VIDEO", "or clean images alone"):
        assert part in str(caught.value)
    with pytest.raises(UsageError, match="wanted LR and HR side by side, lq and gt"):
        open_pairs(tmp_path / "Set5", make_task("sr"))


def test_training_reads_the_training_split(tmp_path: Path) -> None:
    gopro(tmp_path / "train", "a")
    gopro(tmp_path / "test", "b")
    image, target = training_crops(DEBLUR, tmp_path, patch=16, batch_size=2).batch(0, 0, 0)
    assert torch.equal(image, torch.full((2, 3, 16, 16), 2 / 255))
    assert torch.equal(target, torch.full((2, 3, 16, 16), 3 / 255))


@pytest.mark.needs_data
def test_the_splits_of_reds_are_disjoint(data: Path) -> None:
    folder = data / "deblur" / "REDS_resized"
    assert len(open_pairs(folder, DEBLUR, "train")) == 20
    tests = open_pairs(folder, DEBLUR, "test")
    assert len(tests) == 40
    assert not {pair.target for pair in tests} & {
        pair.target for pair in open_pairs(folder, DEBLUR, "train")
    }
