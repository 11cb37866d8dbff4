"""The driver that tests kernels without Python, on this CPU, and the files that it reads."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import case_file
from case_file import CaseWriter, RecordingCore
from engine_cases import functions, recording, write_cases
from inner_loops import Loop, best_loop, inner_loops
from native_engine import CORE, KERNELS, built

ROOT = Path(__file__).parents[1]
MISSING = [name for name in ("cmake", os.environ.get("CXX", "c++")) if shutil.which(name) is None]
can_build = pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}")


@built
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(0, 5),
    st.booleans(),
    st.integers(0, 30),
    st.integers(1, 3),
)
def test_recorded_kernels_size_tensors_as_the_core_does(
    channels: int, height: int, vectors: int, halo: int, fp32: bool, rows: int, copies: int
) -> None:
    kernels = CORE.kernels(KERNELS[0])
    recorded = case_file.Kernels("recorded", kernels.lanes, kernels.value_bytes)
    halo = 0 if fp32 else halo
    rows = min(rows, height + 2 * halo)
    sizes = (channels, height, vectors, vectors, halo, fp32)
    shapes = [module.Shape(*sizes) for module in (CORE, case_file)]
    lines = [module.LineBuffer(rows, copies, 0) for module in (CORE, case_file)]
    assert recorded.floats(shapes[1], lines[1]) == kernels.floats(shapes[0], lines[0])


def test_the_commands_are_those_of_the_driver() -> None:
    source = (ROOT / "csrc" / "tests" / "case_file.h").read_text()
    listed = source.partition("enum class Command {")[2].partition("}")[0]
    assert tuple(name.strip() for name in listed.split(",") if name.strip()) == case_file.COMMANDS
    assert f"kCaseVersion = {case_file.VERSION};" in source


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver with the kernels for every CPU."""
    folder = tmp_path_factory.mktemp("driver")
    options = ["THINLENS_CASES=ON", "THINLENS_ISAS=baseline"]
    options += ["THINLENS_OPTIMIZATION=-O1", "CMAKE_BUILD_TYPE=None"]  # fast to compile
    words = [f"-D{option}" for option in options]
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), *words],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run_cases"


def run(driver: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(driver), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@can_build
@pytest.mark.slow
def test_all_cases_pass_on_this_cpu(driver: Path, tmp_path: Path) -> None:
    path = tmp_path / "fp32.cases"
    number = write_cases(path, 4, "fp32")
    assert number > 300
    done = run(driver, path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"baseline: {number} cases, 0 failed" in done.stdout


@can_build
@pytest.mark.slow
def test_a_wrong_result_fails_loudly(driver: Path, tmp_path: Path) -> None:
    core = RecordingCore(4, "fp32")
    writer = CaseWriter(core)
    with recording(core):
        functions(writer, "fp32")
    case = writer._cases[0]
    absolute = struct.pack("<2d", 1e-6, 1e-6)
    place = case.rindex(absolute) - 8  # the last expected value
    wrong = struct.pack("<d", struct.unpack_from("<d", case, place)[0] + 1e-3)
    writer._cases[0] = case[:place] + wrong + case[place + 8 :]
    path = tmp_path / "wrong.cases"
    writer.write(path)
    done = run(driver, path)
    assert done.returncode == 1
    assert "1 of 735 values are wrong with 1 threads" in done.stdout
    assert ", 1 failed" in done.stdout


@can_build
@pytest.mark.slow
def test_a_file_that_no_kernels_fit_is_an_error(driver: Path, tmp_path: Path) -> None:
    CaseWriter(RecordingCore(4, "bf16")).write(tmp_path / "bf16.cases")
    (tmp_path / "text.cases").write_text("not cases")
    CaseWriter(RecordingCore(4, "fp32")).write(tmp_path / "cut.cases")
    with (tmp_path / "cut.cases").open("r+b") as file:
        file.truncate(20)
    for name, reason in (
        ("bf16", "no kernels of this CPU fit"),
        ("text", "is not a file of cases"),
        ("cut", "ends too early"),
        ("absent", "cannot be read"),
    ):
        done = run(driver, tmp_path / f"{name}.cases")
        assert done.returncode == 1 and reason in done.stderr


DISASSEMBLY = """
0000000000000000 <outer>:
   0:	mov	x0, #0x0
   4:	ldr	q1, [x1]
   8:	fmla	v0.4s, v1.4s, v2.s[0]
   c:	fmla	v3.4s, v1.4s, v2.s[1]
  10:	cmp	x1, x2
  14:	b.ne	4 <outer+0x4>  // b.any
  18:	cbnz	x3, 0 <outer>
  1c:	ret
0000000000000020 <other>:
  20:	fmla	v0.4s, v1.4s, v2.s[0]
  24:	tbnz	w3, #0, 20 <other>
"""


def test_inner_loops_are_counted() -> None:
    loops = inner_loops(DISASSEMBLY)
    assert loops == [Loop("outer", 2, 5), Loop("other", 1, 2)]
    assert best_loop(loops, "out").ratio == 2.5


def test_numbers_are_little_endian() -> None:
    assert case_file.i32(1, -1) == b"\x01\0\0\0\xff\xff\xff\xff"
    assert case_file.array(np.float32([1.0]), "<f4") == b"\x01\0\0\0\x00\x00\x80\x3f"
