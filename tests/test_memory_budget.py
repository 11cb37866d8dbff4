"""Memory as a budget: what `--memory` and control groups allow chooses tiles and bands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cli_cases import images, run
from thinlens import machine_memory
from thinlens.api import save
from thinlens.engine import plan
from thinlens.engine.compilation import compile as compile_module
from thinlens.engine.compiled import Compiled
from thinlens.errors import UsageError
from thinlens.images.rows import InMemoryRowReader
from thinlens.machine_memory import resident_bytes
from thinlens.models import create
from thinlens.restoration import free_memory, memory, memory_budget, tiled
from thinlens.restoration.free_memory import group_free_bytes
from thinlens.restoration.memory_budget import FORWARD_SHARE, MemoryBudget
from thinlens.restoration.options import RestoreOptions
from thinlens.tasks import make_task

CPU = torch.device("cpu")

UNLIMITED = 2**63 - 4096
"""What version 1 of control groups has in place of a limit."""


@given(st.integers(1, 9999), st.sampled_from("KMGT"), st.sampled_from(["", "B", "iB"]))
def test_amounts_are_read(count: int, unit: str, rest: str) -> None:
    expected = count * 1024 ** (1 + "KMGT".index(unit))
    assert MemoryBudget.parse(f"{count}{unit.lower()}{rest}").limit == expected


@pytest.mark.parametrize("text", ["", "2", "0G", "-1G", "2 X", "G", "nan", "2G 3G"])
def test_what_is_no_amount_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="wanted an amount such as 2G or 800M"):
        RestoreOptions(memory=text)


def test_a_budget_changes_no_result() -> None:
    assert RestoreOptions(memory="2G").result_fields() == ""


def test_a_system_that_states_no_memory_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has neither /proc nor `os.sysconf` nor the module `resource`."""
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setitem(sys.modules, "resource", None)
    for name in ("_MEMORY_INFO", "_STATUS"):
        monkeypatch.setattr(machine_memory, name, Path("missing"))
    stated = (machine_memory.physical_bytes(), machine_memory.free_bytes(), resident_bytes())
    assert stated == (None, None, None)
    monkeypatch.setattr(free_memory, "group_free_bytes", lambda: None)
    assert free_memory.available_bytes(CPU) is None
    network, image = create("dncnn-17", depth=3, width=8).eval(), torch.rand(1, 1, 9, 7)
    assert compile_module(network, threads=1)(image).shape == image.shape  # its plan has a limit


# --- Control groups -------------------------------------------------------------------------------


def group(folder: Path, limit: object, used: int, cache: int, *, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")


def member(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "cgroup"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_the_least_of_all_groups_around_a_process_counts(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    group(mount / "a", 1000, 300, 100)
    group(mount / "a" / "b", "max", 200, 0)
    group(mount / "c", 10, 9, 0)  # another's
    path = member(tmp_path, "0::/a/b")
    assert group_free_bytes(mount, path) == 800
    group(mount / "a" / "b", 500, 200, 0)
    assert group_free_bytes(mount, path) == 300
    group(mount, 100, 50, 0)
    assert group_free_bytes(mount, path) == 50


def test_version_1_has_a_hierarchy_of_its_own(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    group(mount / "memory", UNLIMITED, 0, 0, version=1)
    group(mount / "memory" / "job", 1000, 400, 10, version=1)
    path = member(tmp_path, "3:cpu,cpuacct:/x", "2:memory:/job", "0::/")
    assert group_free_bytes(mount, path) == 610
    # inside of a container the path is that outside, and the mount's root is the container's group
    group(mount / "memory", 700, 400, 0, version=1)
    assert group_free_bytes(mount, member(tmp_path, "2:memory:/docker/f00")) == 300


def test_no_group_has_no_limit(tmp_path: Path) -> None:
    assert group_free_bytes(tmp_path / "none", tmp_path / "neither") is None
    group(tmp_path / "mount", "max", 5, 0)
    assert group_free_bytes(tmp_path / "mount", member(tmp_path, "0::/", "broken")) is None


# --- Tiles and bands ------------------------------------------------------------------------------


def test_a_forward_pass_has_a_share_of_what_the_process_may_still_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_budget, "available_bytes", lambda device: 8000)
    monkeypatch.setattr(memory_budget, "resident_bytes", lambda: 300)
    monkeypatch.setattr(memory_budget, "RESERVE", 0)
    assert MemoryBudget().forward_bytes(CPU) == 8000 // FORWARD_SHARE
    assert MemoryBudget(1300).forward_bytes(CPU) == 1000 // FORWARD_SHARE
    assert MemoryBudget(20_000).forward_bytes(CPU) == 8000 // FORWARD_SHARE
    assert MemoryBudget(200).forward_bytes(CPU) == 0


def test_what_is_resident_is_known_here() -> None:
    resident = resident_bytes()
    assert resident is None or 2**20 < resident < 2**40


def denoiser() -> torch.nn.Module:
    torch.manual_seed(0)
    return create("dncnn-17", depth=4, width=16).eval()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Compiled:
    """An engine that runs images of any size in bands."""
    monkeypatch.setattr(plan, "BAND_BYTES", 0)
    compiled = compile_module(denoiser())
    if not isinstance(compiled, Compiled):
        pytest.skip("the engine was not built")
    return compiled


def test_bands_are_for_images_that_fit_into_the_budget(
    engine: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = torch.Size((1, 1, 400, 500))
    monkeypatch.setattr(memory_budget, "resident_bytes", lambda: 0)
    assert memory.runs_in_bands(engine, shape, MemoryBudget(2**30))
    assert not memory.runs_in_bands(engine, shape, MemoryBudget(400 * 500 * 4))
    monkeypatch.setattr(memory, "IMAGE_BYTES", 400 * 500 * 4 - 1)
    assert not memory.runs_in_bands(engine, shape)
    assert memory.runs_in_bands(engine, shape, MemoryBudget(2**30))


def test_memory_that_runs_out_for_bands_is_remembered(
    engine: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(engine: Compiled, image: Tensor) -> Iterator[Tensor]:
        calls.append(image.shape)
        raise MemoryError
        yield image

    monkeypatch.setattr(tiled, "run_bands", full)
    tiler = tiled.Tiler(engine, 1)
    image = torch.rand(1, 280, 300)
    for _ in range(2):
        result = torch.cat(list(tiler.bands(InMemoryRowReader(image), Tensor.contiguous)), dim=1)
        torch.testing.assert_close(
            result, tiled.restore_image(denoiser(), image), atol=1e-5, rtol=0
        )
    assert len(calls) == 1


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""A small process starts the measured one: Linux counts the peak of whoever starts a program as the
program's own."""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no getrusage")
def test_the_peak_stays_within_the_budget(tmp_path: Path) -> None:
    """By default the same command takes twice as much, about 1.2 GB."""
    network = create("dncnn-17", depth=3, width=64)
    save(tmp_path / "net", network, model="dncnn-17", task=make_task("denoise"))
    images(tmp_path / "in", 1, 600, 700)

    def peak(out: str, *options: str) -> int:
        words = [tmp_path / "in", "--model", tmp_path / "net", "--out", tmp_path / out]
        command = [sys.executable, "-m", "thinlens", "restore", *map(str, words), *options]
        measure = [sys.executable, "-c", MEASURE, *command]
        done = subprocess.run(measure, capture_output=True, text=True, check=True)
        return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)

    peaks = [peak(out, "--engine", "torch", "--memory", "600M") for out in "ab"]
    assert max(peaks) < 600 * 2**20
    # glibc's heaps would add up to 350 MB, another number in each run
    assert max(peaks) - min(peaks) < 64 * 2**20 or sys.platform != "linux"


def test_a_budget_that_holds_no_tile_is_refused_with_a_sentence(tmp_path: Path) -> None:
    network = create("dncnn-17", depth=3, width=8)
    save(tmp_path / "net", network, model="dncnn-17", task=make_task("denoise"))
    source = images(tmp_path / "in", 1, 400, 400)
    out = tmp_path / "out"
    ran = run(
        *("restore", source, "--model", tmp_path / "net", "--out", out, "--engine", "torch"),
        *("--memory", "1M"),
    )
    assert ran.status == 1
    assert "wanted more memory" in ran.out + ran.err
