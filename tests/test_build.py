"""Is the package built where there is no compiler, only without its engine?"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake comes with the build, not always")
def test_without_a_compiler_nothing_is_compiled_and_that_is_said(tmp_path: Path) -> None:
    environment = {**os.environ, "CXX": str(tmp_path / "no-compiler")}
    words = ["cmake", "-S", str(ROOT), "-B", str(tmp_path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "installed without its engine" in done.stderr
    assert "_native" not in (tmp_path / "cmake_install.cmake").read_text()
