"""The generated reference: every public thing is in it, and every field has a meaning."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import thinlens
from thinlens.cli.main import VERBS
from thinlens.methods import METHODS

DOCS = Path(__file__).parents[1] / "docs"


@cache
def reference() -> ModuleType:
    """Import the generator, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("reference", DOCS / "site" / "reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def generated(name: str) -> str:
    return str(reference().GENERATED[name]())


def headings(name: str, level: int) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", generated(name), flags=re.MULTILINE | re.DOTALL)
    return re.findall(rf"^{'#' * level} (.+)$", prose, re.MULTILINE)


def test_every_text_has_a_page() -> None:
    pages = [page.read_text() for page in DOCS.rglob("*.md")]
    names = [name for page in pages for name in reference().MARKER.findall(page)]
    assert sorted(names) == sorted(reference().GENERATED)


def test_every_command_has_its_help() -> None:
    assert headings("command-line", 2) == list(VERBS)
    assert all(f"Example: thinlens {verb}" in generated("command-line") for verb in VERBS)
    assert all(f"- {method}: " in generated("command-line") for method in METHODS)
    assert "\x1b" not in generated("command-line")


def test_every_public_name_is_listed() -> None:
    classes = [kind.__name__ for kind in reference().CLASSES]
    assert sorted(headings("python", 3)) == sorted([*thinlens.__all__, *classes])


@pytest.mark.parametrize("name", ["python", "recipes", "checkpoint-format"])
def test_every_field_has_a_meaning(name: str) -> None:
    tables = [line for line in generated(name).splitlines() if line.startswith("|")]
    assert len(tables) > len(headings(name, 2))
    assert not [line for line in tables if re.search(r"\|\s*\|$", line)]


def test_signatures_show_defaults_as_python_has_them() -> None:
    assert "list_models(pattern: str = '*', *, pretrained: bool = False)" in generated("python")
