"""A training run resumes after kill -9, a full disk, signals, and on several processes."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cli_cases import TINY_M, denoising_checkpoint, images, run
from thinlens.checkpoints.format import load
from thinlens.errors import RunError
from thinlens.training.state import load_state, save_state
from tiny_training import (
    SETTINGS,
    Child,
    equal,
    pair,
    run_torchrun,
    save_and_tell,
    torchrun,
    train,
    train_and_tell,
    train_exactly,
    train_on_full_disk,
)

KILLS_WHILE_TRAINING = 20
KILLS_WHILE_SAVING = 50
FULL_DISKS = 40


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    torch.save(train(folder), folder / "final-0.pt")
    return folder


def final(folder: Path, rank: int = 0) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(folder / f"final-{rank}.pt", weights_only=True)
    return weights


def saved_step(folder: Path) -> int:
    state = load_state(folder / "training.pt")
    assert state is not None
    step: int = state["counters"]["step"]
    return step


def assert_same_run(folder: Path, straight: Path) -> None:
    assert equal(final(folder), final(straight))
    assert (folder / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_bit_identical(straight: Path, tmp_path: Path) -> None:
    chance, kills, chains, starts = random.Random(0), 0, 0, set()
    while kills < KILLS_WHILE_TRAINING:
        folder, status = tmp_path / str(chains), None
        while status != 0:
            child = Child.start(train_and_tell, folder)
            first = child.hear()
            starts.add(first)
            if kills < KILLS_WHILE_TRAINING and first is not None:
                child.hear_until(first + chance.randrange(25))
                time.sleep(chance.uniform(0, 0.02))  # anywhere in a step, a log line or a save
                child.kill()
            status = child.end()
            kills += status == -signal.SIGKILL
            assert status in (0, -signal.SIGKILL)
        assert_same_run(folder, straight)
        chains += 1
    assert len(starts) > 3  # runs did go on from different steps


@pytest.mark.slow
def test_no_state_is_lost_by_kills_while_saving(tmp_path: Path) -> None:
    chance, path, half_written = random.Random(0), tmp_path / "training.pt", 0
    for _ in range(KILLS_WHILE_SAVING):
        child = Child.start(save_and_tell, path)
        assert child.hear() is not None
        time.sleep(chance.uniform(0, 0.02))
        child.kill()
        told = [0, *child.hear_all()][-1]
        half_written += len(list(tmp_path.iterdir())) - 1
        state = load_state(path)
        assert state is not None
        step = state["counters"]["step"]
        assert step >= told
        assert state["module"]["weight"].eq(step).all()
    assert half_written > 0  # some kills did fall into a write
    load_state(path)
    assert [p.name for p in tmp_path.iterdir()] == ["training.pt"]


def test_a_full_disk_keeps_the_old_state_and_names_the_file(tmp_path: Path) -> None:
    train(tmp_path, replace(SETTINGS, steps=0))
    for limit in (600, 3000):  # neither holds a state; the first not even the log to its end
        child = Child.start(train_on_full_disk, tmp_path, limit)
        sentence = child.hear()
        assert child.end() == 1
        assert "cannot write" in sentence
        assert str(tmp_path) in sentence
        assert "\n" not in sentence
        assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl"}


def test_a_full_disk_at_any_byte_of_a_large_state_is_a_sentence(tmp_path: Path) -> None:
    """torch reports a failed stream in words of its own, which differ with the moment."""
    path = tmp_path / "training.pt"
    child = Child.start(save_at_every_limit, path)
    answers = child.hear_all()
    assert child.end() == 0
    assert len(answers) == FULL_DISKS
    assert all(answer == f"cannot write {path}: File too large" for answer in answers), answers
    assert [p.name for p in tmp_path.iterdir()] == ["training.pt"]
    assert load_state(path) is not None


def save_at_every_limit(pipe: Connection, path: Path) -> None:
    keys = {"settings": {}, "optimizer": {}, "objective": {}, "counters": {"step": 1}}
    state = {**keys, "module": {str(index): torch.rand(50_000) for index in range(8)}}
    save_state(path, state)
    size = path.stat().st_size
    for index in range(FULL_DISKS):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size * index // FULL_DISKS, -1))
        try:
            save_state(path, state)
        except RunError as error:
            pipe.send(str(error))


def test_a_full_disk_keeps_the_state_before_it(straight: Path, tmp_path: Path) -> None:
    child = Child.start(train_and_tell, tmp_path, (10, signal.SIGTERM))
    assert child.end() == 143
    before = (tmp_path / "training.pt").read_bytes()
    child = Child.start(train_on_full_disk, tmp_path, len(before) // 2)
    sentence = child.hear()
    assert child.end() == 1
    assert f"cannot write {tmp_path / 'training.pt'}" in sentence
    assert (tmp_path / "training.pt").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "training.pt"}
    assert Child.start(train_and_tell, tmp_path).end() == 0
    assert_same_run(tmp_path, straight)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_that_can_go_on(
    number: int, status: int, straight: Path, tmp_path: Path
) -> None:
    between_saves = 7
    assert Child.start(train_and_tell, tmp_path, (between_saves, number)).end() == status
    assert saved_step(tmp_path) == between_saves
    assert Child.start(train_and_tell, tmp_path).end() == 0
    assert_same_run(tmp_path, straight)


@pytest.mark.slow
def test_two_processes_train_as_one_through_kill_and_signal(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert [child.end() for child in pair(straight)] == [0, 0]
    assert equal(final(straight, 0), final(straight, 1))
    alone = train_exactly()
    for rank in (0, 1):
        together = torch.load(straight / f"exact-{rank}.pt", weights_only=True)
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)

    # Kill -9 of rank 1: the chief does not wait for it, and the last state stays.
    chief, other = pair(broken, (17, signal.SIGKILL))
    assert other.end() == -signal.SIGKILL
    killed = time.monotonic()
    assert chief.hear_all()[-1] == "process 1 of 2 (from 0) ended: the others stop"
    assert chief.end() == 1
    assert time.monotonic() - killed < 60
    assert saved_step(broken) == 15

    # One process goes on where two stopped.
    shutil.copytree(broken, tmp_path / "alone")
    assert Child.start(train_and_tell, tmp_path / "alone").end() == 0
    assert saved_step(tmp_path / "alone") == SETTINGS.steps

    # SIGTERM to rank 1 alone: both stop after the same step, with the state saved.
    assert [child.end() for child in pair(broken, (33, signal.SIGTERM))] == [143, 143]
    assert saved_step(broken) == 33
    assert [child.end() for child in pair(broken)] == [0, 0]
    assert equal(final(broken, 0), final(broken, 1))
    assert_same_run(broken, straight)


@pytest.mark.slow
def test_torchrun_starts_again_after_a_kill(tmp_path: Path) -> None:
    torchrun(
        tmp_path,
        "import os, torch, tiny_training as t\n"
        "from pathlib import Path\n"
        "rank, attempt = (os.environ[x] for x in ('RANK', 'TORCHELASTIC_RESTART_COUNT'))\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "(folder / f'attempt-{attempt}').touch()\n"
        "killed = (17, 9) if (rank, attempt) == ('1', '0') else None\n"
        "torch.save(t.train(folder, signalled=killed), folder / f'final-{rank}.pt')\n",
        *("--max-restarts", "1"),
    )
    assert (tmp_path / "attempt-1").is_file()
    assert saved_step(tmp_path) == SETTINGS.steps
    assert equal(final(tmp_path, 0), final(tmp_path, 1))


@pytest.mark.slow
def test_torchrun_prunes_as_one_process(tmp_path: Path) -> None:
    dense, photos = denoising_checkpoint(tmp_path / "dense"), images(tmp_path / "photos", 2, 64, 64)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[training]\nsteps = 3\nwarmup = 0\n[crops]\nbatch_size = 2\npatch = 16\n")
    words = [*("one-shot", dense, "--budget", "1/2", "--m", TINY_M, "--data", photos, "--json")]
    words += ["--recipe", recipe, "--out"]
    alone = run("prune", *words, tmp_path / "alone")
    assert alone.status == 0, alone.err
    told = run_torchrun("-m", "--", "thinlens", "prune", *map(str, words), str(tmp_path / "two"))
    assert json.loads(told)["layers"] == alone.json["layers"]  # one process prints
    one, two = (load(tmp_path / name) for name in ("alone", "two"))
    for name, pattern in one.patterns.items():
        assert torch.equal(pattern.mask, two.patterns[name].mask)
    torch.testing.assert_close(two.module.state_dict(), one.module.state_dict(), rtol=0, atol=1e-5)
