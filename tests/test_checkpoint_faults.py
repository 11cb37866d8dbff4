"""A checkpoint stays whole whatever happens while it is saved."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from small_layers import Toy, ToyConfig, assert_same, toy
from thinlens import models
from thinlens.checkpoints.format import load, save
from thinlens.errors import RunError
from thinlens.models.entry import ModelEntry

FINAL = {"config.json", "model.safetensors"}
"""What a folder holds when nobody writes it."""


@pytest.fixture(autouse=True)
def toy_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(models.MODELS, "toy", ModelEntry(Toy, ToyConfig(), "sr"))
    yield


NURSERY = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from thinlens.checkpoints.format import load, save
from thinlens.models import create

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
network, draw = create("dncnn-17", depth=3, width=4), random.Random(0)

def save_generation(number):
    for tensor in network.state_dict(keep_vars=True).values():
        tensor.data = torch.full_like(tensor, number)
    save(folder, network, model="dncnn-17", task={}, provenance={"generation": number})

def child(done, number):
    os.write(done, b".")
    while True:
        number += 1
        save_generation(number)
        os.write(done, b".")

number, moved = 1, 0
save_generation(number)
for _ in range(kills):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(writer, number)
    os.close(writer)
    os.read(reader, 1)
    time.sleep(draw.uniform(0, 0.12))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    finished = number
    while seen := os.read(reader, 1024):
        finished += len(seen)
    os.close(reader)
    checkpoint = load(folder)
    now = checkpoint.provenance["generation"]
    values = {float(t.double().mean()) for t in checkpoint.module.state_dict().values()}
    assert values == {float(now)}, (values, now)
    assert finished <= now <= finished + 1, (finished, now)
    moved += now != number
    number = now
print(moved, number)
"""


@pytest.mark.slow
def test_no_kill_during_a_save_loses_a_checkpoint(tmp_path: Path) -> None:
    """50 times kill -9 a process that saves without pause, then load."""
    folder = tmp_path / "checkpoint"
    done = subprocess.run(
        [sys.executable, "-c", NURSERY, str(folder), "50"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    moved, number = map(int, done.stdout.split())
    assert moved > 10, "most children were killed before they had saved anything"
    assert load(folder).provenance["generation"] == number
    save(folder, toy(), model="toy", task={})
    assert {path.name for path in folder.iterdir()} == FINAL


@pytest.mark.parametrize("killed_after", ["tensors", "config"])
def test_a_save_goes_on_where_a_killed_one_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: str
) -> None:
    """The two moments between which a kill leaves a third file behind."""
    save(tmp_path / "new", toy(2), model="toy", task={})
    save(tmp_path, toy(1), model="toy", task={})
    (tmp_path / "new" / "model.safetensors").rename(tmp_path / "next.safetensors")
    if killed_after == "config":
        (tmp_path / "new" / "config.json").rename(tmp_path / "config.json")
    else:
        (tmp_path / "new" / "config.json").unlink()
    (tmp_path / "new").rmdir()
    survivor = toy(2 if killed_after == "config" else 1)
    assert_same(load(tmp_path).module, survivor)

    def full_disk(*args: object) -> None:
        raise RunError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("thinlens.checkpoints.format.atomic_write", full_disk)
        with pytest.raises(RunError):
            save(tmp_path, toy(3), model="toy", task={})
    assert_same(load(tmp_path).module, survivor)
    save(tmp_path, toy(3), model="toy", task={})
    assert_same(load(tmp_path).module, toy(3))
    assert {path.name for path in tmp_path.iterdir()} == FINAL


FULL_DISK = """
import resource, sys
from pathlib import Path
from thinlens.checkpoints.format import save
from thinlens.errors import RunError
from thinlens.models import create

for limit in (0, 1000, 5000, 9000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        save(Path(sys.argv[1]), create("dncnn-17", depth=4, width=16), model="dncnn-17", task={})
    except RunError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoint(tmp_path: Path) -> None:
    network = toy()
    save(tmp_path, network, model="toy", task={})
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert all(line.startswith(f"cannot write {tmp_path}") for line in lines)
    assert_same(load(tmp_path).module, network)
    assert {path.name for path in tmp_path.iterdir()} == FINAL


def test_modes_are_kept(tmp_path: Path) -> None:
    save(tmp_path, toy(), model="toy", task={})
    for path in tmp_path.iterdir():
        path.chmod(0o640)
    save(tmp_path, toy(1), model="toy", task={})
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
