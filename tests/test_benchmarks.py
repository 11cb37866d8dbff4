"""Benchmarks import with the present package; each begins with a statement."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_imports(path: Path) -> None:
    """Not as `__main__`, so nothing is measured."""
    assert runpy.run_path(str(path), run_name="benchmark")["__doc__"]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_begins_with_a_statement(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or "?"
    assert docstring.splitlines()[0].endswith(".")
