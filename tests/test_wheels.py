"""What checks a wheel works, and one wheel serves Python 3.12 and all later versions."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from native_engine import built

ROOT = Path(__file__).parents[1]


def test_a_wheel_is_built_for_every_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["scikit-build"]["wheel"]["py-api"] == "cp312"
    assert project["tool"]["cibuildwheel"]["build"] == ["cp311-*", "cp312-*"]


@built
@pytest.mark.slow
def test_the_check_of_a_wheel_passes_in_this_environment(tmp_path: Path) -> None:
    script = ROOT / "packaging" / "check_wheel.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rfdn-x4 restores natively by " in done.stdout
