"""Inputs of `restore`: several sources, patterns, links and long names; results that are stale."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.files import atomic_write
from thinlens.images.folders import list_folder
from thinlens.images.writing import write_png
from thinlens.restoration.folder import RestoreResult, restore_folder
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.sources import collect_inputs
from thinlens.tasks import make_task

TASK = make_task("restore")


def same(image: Tensor) -> Tensor:
    return image


def fill(folder: Path, *names: str, shade: int = 9) -> None:
    for name in names:
        write_png(folder / name, torch.full((3, 4, 5), shade, dtype=torch.uint8))


def run(sources: Path | list[Path], out: Path, **options: object) -> RestoreResult:
    return restore_folder(same, TASK, sources, out, options=RestoreOptions(**options))  # type: ignore[arg-type]


def results(out: Path) -> set[str]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix() for path in files} - {"manifest.jsonl"}


def test_several_sources_are_relative_to_what_they_have_in_common(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "in/deep/b.png", "other/c.png")
    assert run([tmp_path / "in" / "a.png", tmp_path / "other"], tmp_path / "out").done == 2
    assert results(tmp_path / "out") == {"in/a.png", "other/c.png"}
    pattern = tmp_path / "in" / "**" / "*.png"
    assert run([pattern], tmp_path / "two").done == 2
    assert results(tmp_path / "two") == {"a.png", "deep/b.png"}
    one = tmp_path / "in" / "a.png"
    assert run([one, one], tmp_path / "three").done == 1


@pytest.mark.parametrize("words", [[], ["nowhere.png"], ["no*.png"]])
def test_sources_that_are_not_there_are_a_sentence(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not exist|no source"):
        run([tmp_path / word for word in words], tmp_path / "out")


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    fill(tmp_path, "in/[red].png")
    assert run(tmp_path / "in" / "[red].png", tmp_path / "out").done == 1


def test_sources_below_the_results_are_inputs(tmp_path: Path) -> None:
    fill(tmp_path, "w/inp/a.png", "w/inp/deep/b.png")
    for done in ((2, 0), (0, 2)):
        result = run(tmp_path / "w" / "inp", tmp_path / "w")
        assert (result.done, result.skipped) == done
    assert results(tmp_path / "w") == {"inp/a.png", "inp/deep/b.png", "a.png", "deep/b.png"}


def test_a_result_never_overwrites_an_input(tmp_path: Path) -> None:
    fill(tmp_path, "w/inp/a.png", "w/inp/inp/a.png")
    with pytest.raises(UsageError, match=r"w/inp/a\.png is an input"):
        run(tmp_path / "w" / "inp", tmp_path / "w")
    assert results(tmp_path / "w") == {"inp/a.png", "inp/inp/a.png"}


def test_what_is_not_taken_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png")
    for name in ("photo.gif", "deep/notes.txt", ".hidden.png", "Thumbs.db", "b.psd"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    result = run(tmp_path / "in", tmp_path / "out")
    assert result.not_taken == ("b.psd", "deep/notes.txt", "photo.gif")
    assert result.as_json()["not_taken"] == list(result.not_taken)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "elsewhere/sub/b.png")
    (tmp_path / "in" / "links").mkdir()
    (tmp_path / "in" / "links" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "sub" / "back").symlink_to(tmp_path / "in")  # a circle
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "links")
    (tmp_path / "in" / "broken").symlink_to(tmp_path / "nowhere")
    result = run(tmp_path / "in", tmp_path / "out")
    assert results(tmp_path / "out") == {"a.png", "links/out/sub/b.png"}
    assert result.not_taken == ("again", "broken", "links/out/sub/back")


def test_another_format_keeps_the_earlier_results(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png")
    for name in ("png", "jpeg"):
        assert run(tmp_path / "in", tmp_path / "out", format=name).removed == ()
    assert results(tmp_path / "out") == {"a.png", "a.jpg"}


def test_the_order_does_not_depend_on_links(tmp_path: Path) -> None:
    fill(tmp_path, "b/x.png", "c.png", "a/z.png")
    names = [path.relative_to(tmp_path).as_posix() for path in list_folder(tmp_path).images]
    assert names == ["a/z.png", "b/x.png", "c.png"]


LONG = ["x" * 251 + ".png", "長" * 83 + ".png", "y" * 247 + ".png"]


def test_long_names_do_not_stop_the_others(tmp_path: Path) -> None:
    fill(tmp_path / "short", "a.png")
    content = (tmp_path / "short" / "a.png").read_bytes()
    (tmp_path / "in").mkdir()
    for name in ["a.png", *LONG, "z.png"]:
        (tmp_path / "in" / name).write_bytes(content)
    assert run(tmp_path / "in", tmp_path / "out").done == 5
    assert results(tmp_path / "out") == {"a.png", *LONG, "z.png"}
    # a result whose own name is too long is listed
    (tmp_path / "in" / ("x" * 251 + ".jpg")).write_bytes(content)
    result = run(tmp_path / "in", tmp_path / "out")
    assert set(result.failures) == {"x" * 251 + ".png", "x" * 251 + ".jpg"}
    assert "File name too long" in result.failures["x" * 251 + ".jpg"]
    assert result.skipped == 4


@pytest.mark.parametrize("name", ["a", "x" * 255, "é" * 127, "x" * 40, "長" * 85])
def test_a_temporary_name_is_not_longer_than_the_final_one(name: str, tmp_path: Path) -> None:
    with atomic_write(tmp_path / name) as file:
        file.write(b"content")
        (temporary,) = (path.name for path in tmp_path.iterdir())
        assert len(os.fsencode(temporary)) <= max(32, len(os.fsencode(name)))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_results_that_are_empty_or_damaged_are_made_again(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "in/b.png", "in/c.png")
    run(tmp_path / "in", tmp_path / "out")
    whole = (tmp_path / "out" / "a.png").read_bytes()
    (tmp_path / "out" / "a.png").write_bytes(b"")
    (tmp_path / "out" / "b.png").write_bytes(whole[:-1] + b"x")
    result = run(tmp_path / "in", tmp_path / "out")
    assert (result.done, result.skipped) == (2, 1)
    assert (tmp_path / "out" / "b.png").read_bytes() == whole


def test_other_options_make_other_results(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png")
    assert run(tmp_path / "in", tmp_path / "out").done == 1
    assert run(tmp_path / "in", tmp_path / "out", tile=64).skipped == 1
    assert run(tmp_path / "in", tmp_path / "out", size="2x").done == 1
    assert run(tmp_path / "in", tmp_path / "out", size="2x").skipped == 1


def test_manifests_of_earlier_versions_are_read(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png")
    run(tmp_path / "in", tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.jsonl"
    record = json.loads(manifest.read_text())
    for key in ("options", "output_size", "output_sha256"):
        del record[key]
    manifest.write_text(json.dumps(record) + "\n")
    assert run(tmp_path / "in", tmp_path / "out").skipped == 1
    (tmp_path / "out" / "a.png").write_bytes(b"")
    assert run(tmp_path / "in", tmp_path / "out").done == 1


def test_a_result_under_an_earlier_name_is_removed(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.jpg.png", shade=1)
    (tmp_path / "in" / "a.jpg.png").rename(tmp_path / "in" / "a.jpg")
    run(tmp_path / "in", tmp_path / "out")
    assert results(tmp_path / "out") == {"a.png"}
    fill(tmp_path, "in/a.png", shade=2)
    result = run(tmp_path / "in", tmp_path / "out")
    assert results(tmp_path / "out") == {"a.jpg.png", "a.png.png"}
    assert result.removed == ("a.png",)
    # what somebody changed is kept
    (tmp_path / "out" / "a.jpg.png").write_bytes(b"mine")
    (tmp_path / "in" / "a.png").unlink()
    assert run(tmp_path / "in", tmp_path / "out").removed == ()
    assert results(tmp_path / "out") == {"a.jpg.png", "a.png.png", "a.png"}


def test_a_file_name_as_out_is_that_file(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "in/b.png")
    result = run(tmp_path / "in" / "a.png", tmp_path / "x" / "big.jpg")
    assert (result.done, results(tmp_path / "x")) == (1, {"big.jpg"})
    assert not (tmp_path / "x" / "manifest.jsonl").exists()
    (tmp_path / "folder.png").mkdir()
    run(tmp_path / "in", tmp_path / "folder.png")
    assert results(tmp_path / "folder.png") == {"a.png", "b.png"}


@pytest.mark.parametrize(
    ("source", "out", "options", "sentence"),
    [
        ("in", "big.png", {}, "the name of one image"),
        ("in/a.png", "in/a.png", {}, "is the input"),
        ("in/a.png", "x.bmp", {}, "bmp is not written"),
        ("in/a.png", "x.jpg", {"format": "webp"}, "no file name of --format webp"),
        ("in/c.png", "x.png", {}, "does not exist"),
    ],
)
def test_a_file_name_that_cannot_be_is_refused(
    source: str, out: str, options: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    fill(tmp_path, "in/a.png", "in/b.png")
    with pytest.raises(UsageError, match=sentence):
        run(tmp_path / source, tmp_path / out, **options)


def test_a_thousand_names_are_collected_quickly(tmp_path: Path) -> None:
    for index in range(1000):
        (tmp_path / f"{index}.png").touch()
    start = time.process_time()
    assert len(collect_inputs([tmp_path], tmp_path / "out").paths) == 1000
    assert time.process_time() - start < 2


def test_what_is_no_image_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to themselves, pipes, devices and folders without permission: each has its sentence."""
    source, out = tmp_path / "in", tmp_path / "out"
    fill(source, "a.png", "sub/b.png", "z.png", "x" * 250 + ".png")
    (source / "loop").symlink_to("loop")
    (source / "loop.png").symlink_to("loop.png")
    (source / "up").symlink_to("..")
    os.mkfifo(source / "pipe.png")
    (source / "device.png").symlink_to("/dev/zero")
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    result = run(source, out)
    assert result.done == 3
    assert set(result.failures) == {"sub", "loop.png", "pipe.png", "device.png"}
    assert result.failures["sub"] == "this folder cannot be listed: Permission denied"
    assert "special file" in result.failures["pipe.png"]
    assert "special file" in result.failures["device.png"]
    assert results(out) == {"a.png", "z.png", "x" * 250 + ".png"}
    with pytest.raises(UsageError, match=r"cannot list .*sub: Permission denied"):
        list_folder(source / "sub")
