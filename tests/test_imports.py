"""What commands import: a second is much for `thinlens --version`, and for each restored image."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from cli_cases import denoising_checkpoint, images

REPORT = """
import sys
before = set(sys.modules)
{code}
packages = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(sorted(packages - set(sys.stdlib_module_names)), 'torch' in sys.modules)
"""
"""Prints the packages that are imported, and whether torch is."""

VERSION = "from thinlens.cli.main import main; main(['--version'])"
VERSION_PACKAGES = {"thinlens", "tyro", "docstring_parser", "typeguard", "typing_extensions"}
"""The parser's packages; torch is none of them."""

SLOW_MODULES = ("torch._dynamo", "sympy", "scipy", "matplotlib", "onnx", "pandas", "skimage")
"""What restoring and pruning do not need; torch's compiler takes a second and 70 MB."""


def imported(code: str) -> tuple[set[str], bool]:
    program = REPORT.format(code=code)
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names, _, loaded = done.stdout.splitlines()[-1].rpartition(" ")
    return set(ast.literal_eval(names)), loaded == "True"


def test_the_package_alone_imports_nothing_else() -> None:
    assert imported("import thinlens") == ({"thinlens"}, False)


def test_the_version_needs_no_torch() -> None:
    packages, has_torch = imported(VERSION)
    assert not has_torch
    assert packages <= VERSION_PACKAGES


@pytest.mark.slow
def test_no_command_imports_what_only_compilers_and_pictures_need(tmp_path: Path) -> None:
    denoising_checkpoint(tmp_path / "dense")
    images(tmp_path / "clean", count=1, height=48, width=48)
    lines = [
        f"prune one-shot {tmp_path}/dense --budget 1/2 --m 4 --out {tmp_path}/thin",
        f"evaluate {tmp_path}/thin --data {tmp_path}/clean",
        f"restore {tmp_path}/clean --model {tmp_path}/thin --out {tmp_path}/out",
        f"info {tmp_path}/thin",
    ]
    code = f"""
from thinlens.cli.main import main
for line in {lines!r}:
    assert main(line.split()) == 0
    slow = [name for name in {SLOW_MODULES!r} if name in sys.modules]
    assert not slow, (line, slow)
"""
    packages, _ = imported(code)
    assert "torch" in packages
