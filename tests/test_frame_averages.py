"""Pseudo labels by averaged frames are equation 1, on sequences as REDS has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.writing import write_png
from thinlens.methods.classpruning.method import ClassPruning
from thinlens.methods.classpruning.stages import LabelStage
from thinlens.sparsity.budget import Budget
from thinlens.tasks import make_task
from thinlens.tasks.crops import Crops
from thinlens.tasks.folders import training_crops
from thinlens.tasks.frame_averages import FrameAverages, consecutive_frames, frame_counts

DEBLUR = make_task("deblur")


def frame(number: int) -> Tensor:
    """Return a frame whose every value is its number, but for a bar that moves."""
    image = torch.full((3, 24, 24), number, dtype=torch.uint8)
    image[:, :, number : number + 4] = 255
    return image


def reds(folder: Path, *videos: tuple[str, range]) -> Crops:
    for video, numbers in videos:
        for number in numbers:
            for side in ("train_blur", "train_sharp"):
                write_png(folder / side / video / f"{number:08}.png", frame(number))
    return training_crops(DEBLUR, folder, patch=24, batch_size=2, candidates=1)


def test_runs_of_frames_are_consecutive_numbers_of_one_folder(tmp_path: Path) -> None:
    crops = reds(tmp_path, ("000", range(5)), ("001", range(3, 6)))
    assert crops.sequences == ((0, 1, 2, 3, 4), (5, 6, 7))
    paths = [Path(f"a/{number}.png") for number in (10, 9, 12)]
    assert consecutive_frames(paths) == ((1, 0), (2,))


def test_a_label_is_the_number_of_averaged_frames(tmp_path: Path) -> None:
    crops = reds(tmp_path, ("000", range(9)))
    images, classes = FrameAverages(crops, (1, 5, 9)).batch(0, 0, 0)
    assert classes.tolist() == [0, 1, 2, 0, 1, 2]
    stack = torch.stack([frame(number) for number in range(9)]).float()
    for image, count in zip(images, (1, 5, 9) * 2, strict=True):
        first = (9 - count) // 2
        expected = stack[first : first + count].mean(0) / 255  # equation 1, divided by N
        torch.testing.assert_close(image.flatten().sort()[0], expected.flatten().sort()[0])
    sharp, blurred = images[0], images[2]
    assert float(sharp.var()) > float(blurred.var())
    again, _ = FrameAverages(crops, (1, 5, 9)).batch(0, 0, 0)
    assert torch.equal(images, again)


@pytest.mark.parametrize("text", ["", "3,5,8", "5,3", "3,5,11", "3,x", "3,3"])
def test_wrong_counts_are_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="wanted odd, rising numbers up to 9"):
        frame_counts(text)


def test_too_few_frames_are_one_sentence(tmp_path: Path) -> None:
    crops = reds(tmp_path, ("000", range(5)))
    with pytest.raises(UsageError, match="wanted 9 consecutive frames of a video, and there are 5"):
        FrameAverages(crops, (3, 5, 9))


def test_stage_one_learns_from_these_labels(tmp_path: Path) -> None:
    method = ClassPruning.preset(
        "paper", budget=Budget.parse("90%"), example=(1, 3, 24, 24), label_frames="1,3,5"
    )
    crops = reds(tmp_path, ("000", range(7)))
    difficulty, labelled = method._labels(crops, 0, 3)
    assert difficulty is None
    from test_class_pruned import class_pruned

    stage = LabelStage(class_pruned().train(), difficulty)
    images, classes = labelled.batch(0, 0, 0)
    loss = stage.loss(lambda x: x, (images[:, :1], classes))
    assert loss.item() > 0
    with pytest.raises(UsageError, match="label_frames 1,3: wanted 3 numbers"):
        ClassPruning(budget=Budget.parse("90%"), example=(1, 3, 8, 8), label_frames="1,3")._labels(
            crops, 0, 3
        )


@pytest.mark.needs_data
def test_reds_has_sequences_of_nine_frames(data: Path) -> None:
    folder = data / "deblur" / "REDS_resized"
    crops = training_crops(DEBLUR, folder, patch=64, batch_size=4)
    images, classes = FrameAverages(crops, (3, 5, 9)).batch(0, 0, 0)
    assert images.shape == (12, 3, 64, 64)
    detail = (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3))
    by_class = [float(detail[classes == label].mean()) for label in range(3)]
    assert by_class == sorted(by_class, reverse=True)  # more frames, more blur
