"""Several processes and one folder: restorations share it, runs have it alone, reads are whole."""

from __future__ import annotations

import errno
import json
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from cli_cases import denoising_checkpoint, images, run
from thinlens import file_locks
from thinlens.api import save
from thinlens.checkpoints import format as checkpoint_format
from thinlens.checkpoints.format import load
from thinlens.errors import RunError, UsageError
from thinlens.file_locks import FolderLock, exclusive_folder
from thinlens.files import atomic_write, read_unchanged
from thinlens.images.writing import write_png
from thinlens.models import create
from thinlens.restoration import folder_run, results
from thinlens.restoration.folder import restore_folder
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.shards import Shard
from thinlens.tasks import make_task
from thinlens.temporary_files import claim_name, sweep_leftovers
from tiny_training import SETTINGS, Child, train

SR, DENOISE = make_task("sr", scale=2), make_task("denoise")
IMAGES = 24


class Slow(nn.Module):
    """Repeats every pixel, after a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.weight, self.seconds = nn.Parameter(torch.ones(1)), seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return F.interpolate(x, scale_factor=2) * self.weight


def fill(folder: Path, count: int = IMAGES) -> list[str]:
    noise = torch.Generator().manual_seed(0)
    names = [f"{'x/' * (index % 2)}{index:02}.png" for index in range(count)]
    for name in names:
        write_png(folder / name, torch.randint(0, 256, (3, 6, 8), generator=noise).to(torch.uint8))
    (folder / "bad.png").write_bytes(b"")
    return [*names, "bad.png"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def paths_of(out: Path) -> list[str]:
    return [json.loads(line)["path"] for line in (out / "manifest.jsonl").read_text().splitlines()]


def restore_and_tell(pipe: Connection, source: Path, out: Path) -> None:
    torch.set_num_threads(1)

    def progress(done: int, total: int, values: dict[str, float]) -> None:
        pipe.send(done)

    result = restore_folder(Slow(0.005), SR, source, out, progress=progress)
    pipe.send((result.done, result.skipped, len(result.failures)))


def test_processes_share_a_folder_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    source, out, alone = (tmp_path / name for name in ("in", "out", "alone"))
    names = fill(source)
    children = [Child.start(restore_and_tell, source, out) for _ in range(3)]
    killed = children.pop()
    killed.hear_until(3)
    killed.kill()
    results = []
    for child in children:
        results.append(child.hear_all()[-1])
        assert child.end() == 0
    for done, skipped, failed in results:
        assert done + skipped == IMAGES
        assert failed == 1  # one process tried it, the other was told so
    lines = paths_of(out)
    bad = lines.count("bad.png")  # a process that starts after one has failed at it tries it again
    assert bad >= 1
    assert sorted(lines) == sorted(names + ["bad.png"] * (bad - 1))  # the others were done once
    restore_folder(Slow(), SR, source, alone)
    shared, single = files_of(out), files_of(alone)
    assert shared.keys() == single.keys()  # no temporary file and no claim stays
    for name in shared.keys() - {"manifest.jsonl"}:
        assert shared[name] == single[name]


def test_an_image_of_another_process_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    fill(source, 2)
    restore_folder(Slow(), SR, source, out)
    before = files_of(out)
    held = file_locks.try_lock
    (out / claim_name("00.png")).touch()
    with (out / claim_name("00.png")).open("rb") as claim:
        assert held(claim.fileno())
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                claim.close()  # as its process ends

        monkeypatch.setattr(folder_run.time, "sleep", sleep)
        result = restore_folder(Slow(), SR, source, out)
    assert len(waits) == 3
    assert (result.done, result.skipped) == (0, 2)
    after = files_of(out)
    assert after.keys() == before.keys()


def test_a_result_whose_line_was_lost_is_made_again_and_equal(tmp_path: Path) -> None:
    """Kill -9 after a result has its name and before the manifest has its line."""
    source, out = tmp_path / "in", tmp_path / "out"
    fill(source, 4)
    restore_folder(Slow(), SR, source, out)
    whole, manifest = files_of(out), out / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:-1]) + lines[-1][:20])
    result = restore_folder(Slow(), SR, source, out)
    assert (result.done, result.skipped, len(result.failures)) == (1, 3, 1)
    again = files_of(out)
    assert {**again, "manifest.jsonl": b""} == {**whole, "manifest.jsonl": b""}
    assert sorted(set(paths_of(out))) == sorted(
        ["00.png", "02.png", "bad.png", "x/01.png", "x/03.png"]
    )


def test_leftovers_in_sub_folders_are_swept(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    fill(source, 2)
    child = Child.start(write_and_wait, out / "x" / "01.png")
    assert child.hear() == "written"
    assert sweep_leftovers(out / "x") == 0  # its process is running
    child.kill()
    assert len(list((out / "x").iterdir())) == 1
    restore_folder(Slow(), SR, source, out)
    assert [path.name for path in (out / "x").iterdir()] == ["01.png"]


def write_and_wait(pipe: Connection, path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"half")
        file.flush()
        pipe.send("written")
        time.sleep(60)


# --- One process at a time ------------------------------------------------------------------------


def test_a_training_run_has_its_folder_alone_until_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "SHARE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint_format, "SAVE_SECONDS", 0.0)
    source, out = images(tmp_path / "in", 1, 16, 16), tmp_path / "out"
    thin = denoising_checkpoint(tmp_path / "model")
    child = Child.start(hold, out)
    assert child.hear() == "locked"
    for words in (
        ("train", "dncnn-17", "--data", source, "--steps", 1, "--out", out),
        ("prune", "one-shot", thin, "--budget", "1/2", "--out", out),
        ("adapt", thin, "--data", source, "--out", out),
        ("restore", source, "--model", thin, "--out", out),
    ):
        ran = run(*words)
        assert (ran.status, ran.out) == (1, "")
        assert f"another process is writing to {out}" in ran.err
        assert "Traceback" not in ran.err
    with pytest.raises(RunError, match="another process is writing"):
        save(out, create("dncnn-17", depth=3, width=8), model="dncnn-17", task=DENOISE)
    with pytest.raises(RunError, match="another process is writing"):
        train(out, replace(SETTINGS, steps=1))
    assert not list(out.iterdir())
    child.kill()
    train(out, replace(SETTINGS, steps=1))  # the lock ended with its process
    assert {path.name for path in out.iterdir()} == {"training.pt", "metrics.jsonl"}


def hold(pipe: Connection, folder: Path) -> None:
    with exclusive_folder(folder):
        pipe.send("locked")
        time.sleep(60)


def test_locks_of_one_thread_are_one_and_an_empty_folder_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with exclusive_folder(folder), exclusive_folder(folder):
        with FolderLock(folder, shares=True) as inner:
            assert inner.is_exclusive
        assert folder.is_dir()
    assert not (tmp_path / "a").exists()
    with exclusive_folder(folder):
        (folder / "file").touch()
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_disk_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_locks.fcntl, "flock", none)
    fill(tmp_path / "in", 2)
    result = restore_folder(Slow(), SR, tmp_path / "in", tmp_path / "out")
    assert (result.done, len(result.failures)) == (2, 1)
    assert "has no locks" in caplog.text


# --- Readers --------------------------------------------------------------------------------------


def save_in_turn(pipe: Connection, folder: Path) -> None:
    torch.set_num_threads(1)
    networks = [create("dncnn-17", depth=3, width=8) for _ in range(2)]
    for value, network in enumerate(networks):
        for parameter in network.parameters():
            torch.nn.init.constant_(parameter, value)
    save(folder, networks[0], model="dncnn-17", task=DENOISE)
    pipe.send("go")
    while True:
        for network in networks:
            save(folder, network, model="dncnn-17", task=DENOISE)


def test_a_checkpoint_is_read_whole_while_another_process_saves(tmp_path: Path) -> None:
    child = Child.start(save_in_turn, tmp_path)
    assert child.hear() == "go"
    seen = []
    for _ in range(60):
        state = load(tmp_path).module.parameters()
        values = {float(x) for parameter in state for x in parameter.detach().flatten()}
        assert len(values) == 1
        seen += values
    child.kill()
    assert set(seen) == {0.0, 1.0}


def test_a_failure_is_passed_on_where_nothing_changed(tmp_path: Path) -> None:
    path, calls = tmp_path / "file", []

    def read() -> str:
        calls.append(path)
        if len(calls) < 3:
            path.write_text("x" * len(calls))
            raise UsageError("half")
        if len(calls) == 3:
            return "whole"
        raise UsageError("damaged")

    assert read_unchanged([path], read) == "whole"
    with pytest.raises(UsageError, match="damaged"):
        read_unchanged([path], read)
    assert len(calls) == 4


# --- Shards ---------------------------------------------------------------------------------------


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 9))
def test_shards_are_a_partition_that_never_changes(names: list[str], count: int) -> None:
    images = dict.fromkeys(name.encode(errors="ignore").decode() for name in names)
    shards = [Shard(number, count).select(images) for number in range(1, count + 1)]
    assert sorted(name for shard in shards for name in shard) == sorted(images)


def test_shards_together_are_one_run(tmp_path: Path) -> None:
    source, out, alone = (tmp_path / name for name in ("in", "out", "alone"))
    names = fill(source, 12)
    results = [
        restore_folder(Slow(), SR, source, out, options=RestoreOptions(shard=shard))
        for shard in ("1/2", "2/2")
    ]
    assert sum(result.done for result in results) == 12
    assert all(0 < result.done < 12 for result in results)
    manifests = sorted(out.glob("manifest*.jsonl"))
    assert [path.name for path in manifests] == ["manifest-1-of-2.jsonl", "manifest-2-of-2.jsonl"]
    lines = [line for path in manifests for line in path.read_text().splitlines()]
    assert sorted(json.loads(line)["path"] for line in lines) == sorted(names)
    whole = restore_folder(Slow(), SR, source, out)  # their manifests are read as one
    assert (whole.done, whole.skipped, len(whole.failures)) == (0, 12, 1)
    restore_folder(Slow(), SR, source, alone)
    assert {n: x for n, x in files_of(out).items() if n.endswith("png")} == {
        n: x for n, x in files_of(alone).items() if n.endswith("png")
    }
    again = restore_folder(Slow(), SR, source, out, options=RestoreOptions(shard="1/3"))
    assert again.done == 0


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_wrong_shard_is_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=f"--shard {text}: wanted"):
        RestoreOptions(shard=text)
