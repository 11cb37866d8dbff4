"""Threads of the engine: created once, asleep when idle, without Python's lock."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from native_engine import built
from thinlens.engine.compiled import Compiled
from thinlens.models import MODELS, create
from thinlens.models.tile_position import TilePosition, tile_positions

pytestmark = built

TASKS = Path("/proc/self/task")
PATIENCE = 60.0


def network(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    wide = nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), wide, nn.Conv2d(width, 3, 1)).eval()


@pytest.mark.skipif(not TASKS.exists(), reason="threads are counted in /proc")
def test_threads_are_made_once() -> None:
    fast, image = Compiled(network(), 3), torch.rand(1, 3, 20, 20)
    fast(image)
    before = len(list(TASKS.iterdir()))
    for _ in range(50):
        fast(image)
    assert len(list(TASKS.iterdir())) == before
    del fast
    assert len(list(TASKS.iterdir())) == before - 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_threads_stay_on_the_cores_of_who_made_them() -> None:
    allowed = os.sched_getaffinity(0)
    before = {int(task.name) for task in TASKS.iterdir()}
    os.sched_setaffinity(0, {min(allowed)})
    try:
        fast = Compiled(network(), 3)
    finally:
        os.sched_setaffinity(0, allowed)
    new = {int(task.name) for task in TASKS.iterdir()} - before
    assert len(new) == fast.pool.threads - 1
    assert all(os.sched_getaffinity(task) == {min(allowed)} for task in new)


def test_idle_threads_sleep() -> None:
    fast = Compiled(network(), 4)
    fast(torch.rand(1, 3, 20, 20))
    rest = 0.2
    begin = time.process_time()
    time.sleep(rest)
    assert time.process_time() - begin < 0.1 * rest


def test_python_goes_on_while_the_engine_works() -> None:
    """Were the lock held, nothing could be counted between a call's begin and its end."""
    fast, image = Compiled(network(), 1), torch.rand(1, 3, 256, 256)
    fast(image)
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        fast(image)
        ended.set()

    most, deadline = 0, time.monotonic() + PATIENCE
    while most < 1000 and time.monotonic() < deadline:  # a busy machine may need another try
        begun.clear(), ended.clear()
        worker = threading.Thread(target=work)
        worker.start()
        begun.wait(PATIENCE)
        count = 0
        while not ended.is_set():
            count += 1
        worker.join()
        most = max(most, count)
    assert most >= 1000


def test_callers_on_several_threads_get_their_own_results() -> None:
    fast = Compiled(network(), 2)
    images = [torch.rand(1, 3, 8 + i % 3, 9) for i in range(12)]
    with torch.inference_mode():
        expected = [fast.module(image) for image in images]
    with ThreadPoolExecutor(4) as callers:
        got = list(callers.map(fast, images))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def _child(fast: Compiled, image: torch.Tensor, expected: torch.Tensor) -> None:
    os._exit(0 if torch.equal(fast(image), expected) else 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_no_threads_and_the_same_result() -> None:
    fast, image = Compiled(network(), 2), torch.rand(1, 3, 20, 20)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_child, args=(fast, image, fast(image)))
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_batch_of_small_images_is_shared_out(count: int) -> None:
    """Each image has the bits that it has alone, wherever in a larger one it lies."""
    module = create("rfdn", **MODELS["rfdn"].tiny).eval()
    fast, one = Compiled(module, 3), Compiled(module, 1)
    batch = torch.rand(count, 3, 24, 36)
    there = [TilePosition(12 * index, 6, 400, 300) for index in range(count)]
    for places in ([], there):
        with tile_positions(places):
            together = fast(batch)
        for index in range(count):
            with tile_positions(places[index : index + 1]):
                alone = one(batch[index : index + 1])
            assert torch.equal(together[index : index + 1], alone)
    assert len(fast._single_threaded) == (3 if count > 1 else 0)


def test_large_images_go_one_after_the_other() -> None:
    fast = Compiled(nn.Conv2d(3, 3, 3, padding=1), 2)
    batch = torch.rand(2, 3, 190, 180)
    expected = fast.module(batch)
    torch.testing.assert_close(fast(batch), expected)
    assert not fast._single_threaded
