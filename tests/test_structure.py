"""Is the house built as docs/architecture.md says?"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinlens

PACKAGE = Path(thinlens.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
NATIVE = sorted(p for p in (PACKAGE.parents[1] / "csrc").rglob("*") if p.is_file())

ARCHITECTURE = PACKAGE.parents[1] / "docs/architecture.md"
ORDER = [
    set(re.findall(r"[a-z_]+", names))
    for names in ARCHITECTURE.read_text().split("## One direction\n")[1].split(". ")[0].split("<")
]
"""The rooms of docs/architecture.md: one imports only what stands before it, and itself."""

DOORS = {"__init__", "__main__"}
"""Files of the package itself; they may open every room."""

FORBIDDEN_NAMES = {"utils", "util", "helpers", "common", "base", "misc", "manager"}
HEAVY = ["torchvision", "matplotlib", "lightning_fabric", "rich", "scipy", "skimage"]
MOST_LINES = 400


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(name: str) -> int:
    found = [index for index, names in enumerate(ORDER) if name in names]
    assert found, f"docs/architecture.md has no room called {name}"
    return found[0]


def imported_rooms(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, room) of every import of ours, wherever it stands in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "thinlens":
            names = [f"thinlens.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module or ""]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "thinlens" and rest:
                yield node.lineno, rest.split(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_data_flows_one_way(path: Path) -> None:
    here = room(path)
    if here in DOORS:
        return
    for line, other in imported_rooms(parsed(path)):
        allowed = other == here or level(other) < level(here)
        # Errors, files, signals and progress stand side by side and may use each other.
        allowed |= level(other) == level(here) == 0
        assert allowed, f"{path.relative_to(PACKAGE)}:{line} imports {other}"


def test_the_import_walk_sees_every_form() -> None:
    code = "import thinlens.cli.main\nfrom thinlens import api\n"
    code += "def f():\n    from thinlens.engine.plan import x"
    assert sorted(name for _, name in imported_rooms(ast.parse(code))) == ["api", "cli", "engine"]


@pytest.mark.parametrize("path", [*SOURCES, *NATIVE], ids=lambda p: "/".join(p.parts[-2:]))
def test_files_are_short_and_named_for_what_they_answer(path: Path) -> None:
    assert len(path.read_bytes().splitlines()) <= MOST_LINES
    assert not FORBIDDEN_NAMES & {part.lower() for part in (path.stem, *path.parent.parts[-2:])}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_says_which_question_it_answers(path: Path) -> None:
    assert not parsed(path).body or ast.get_docstring(parsed(path))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path: Path) -> None:
    if room(path) == "cli":
        return
    calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    prints = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not prints


def test_importing_thinlens_is_light() -> None:
    code = f"import sys, thinlens; print([name for name in {HEAVY} if name in sys.modules])"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
