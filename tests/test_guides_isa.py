"""docs/adding-an-isa.md, executed: one file and one entry are a set of instructions."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from guides import code_blocks

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "adding-an-isa.md"

MISSING = [
    reason
    for missing, reason in (
        (platform.machine() not in ("x86_64", "AMD64"), "the guide's instructions are x86-64's"),
        (shutil.which("cmake") is None, "no cmake"),
        (shutil.which(os.environ.get("CXX", "c++")) is None, "no C++ compiler"),
        (find_spec("nanobind") is None, "no nanobind"),
    )
    if missing
]

can_build = pytest.mark.skipif(
    bool(MISSING), reason=f"nothing can be built here: {', '.join(MISSING)}"
)


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_file_has_an_entry() -> None:
    entries = (ROOT / "csrc" / "isa_list.inc").read_text()
    names = re.findall(r"^THINLENS_ISA\((\w+),", entries, re.MULTILINE)
    assert sorted(names) == sorted(path.stem for path in (ROOT / "csrc" / "isa").iterdir())


@pytest.mark.slow
@can_build
def test_a_set_of_instructions_is_one_file_and_one_entry(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    shutil.copy(ROOT / "CMakeLists.txt", tmp_path)
    blocks = code_blocks(GUIDE)
    assert list(blocks) == ["cpp csrc/isa/sse4.cpp", "cpp csrc/isa_list.inc", "sh", "python"]
    kernels, entry, build, check = blocks.values()
    (tmp_path / "csrc" / "isa" / "sse4.cpp").write_text(kernels)
    entries = tmp_path / "csrc" / "isa_list.inc"
    baseline = re.search(r"^THINLENS_ISA\(baseline.*\n", entries.read_text(), re.MULTILINE)
    assert baseline is not None
    entries.write_text(entries.read_text().replace(baseline[0], baseline[0] + entry))
    assert "kernels: sse4" in run(["bash", "-euc", build], tmp_path)
    assert "sse4 equals torch" in run([sys.executable, "-c", check], tmp_path)
