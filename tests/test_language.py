"""The words of the code are the field's: statements on top of files, no metaphors, no homonyms."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinlens

PACKAGE = Path(thinlens.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
NATIVE = sorted(
    path for path in (PACKAGE.parents[1] / "csrc").rglob("*") if path.suffix in (".h", ".cpp")
)

BANNED = re.compile(
    r"living|alive|dead|dies?|died|dying|gone|extinct"  # weights are kept or pruned
    r"|leave[srd]?|leaving"  # channels are pruned or remain
    r"|wears?|worn|wore|wearing"  # a weight has a mask
    r"|dear|dearer|dearest"  # a candidate is expensive
    r"|judges?|judged|judging|judgements?|verdicts?"  # a metric evaluates
    r"|bills?|billed|accounts?"  # a cost is reported
    r"|told|said|tells?"  # a value is passed, a config holds it
    r"|lands?|landed|landing"  # a budget is met
    r"|courses?"
    r"|taught|teach|teaches|teaching|lessons?"  # a network is distilled, trained
    r"|bought|buys?|sold|sells?|bargains?"
)
"""Words of the metaphor families that the code once had: life, clothing, courts, markets, school,
travel. Each has a standard term, in the comment beside it."""


STANDARD = {
    "tree_leaves": "torch.utils._pytree: the tensors of nested arguments",
    "tell": "a method of Python's files: the position in bytes",
    "leave_parametrized": "an argument of torch.nn.utils.parametrize.remove_parametrizations",
}
"""Names of other libraries, and why they are needed."""

PARTICIPLES = {"found", "told", "given", "made"}
"""Names that say how a value came to be; a name says what a thing is."""

SHARED_NAMES = {
    "Config": "the frozen config beside the network that it configures, in every file of models/",
    "NETWORKS": "the registry entries of a file of models/, joined in `MODELS`",
    "TINY": "config fields that make a file's networks small enough for a unit test",
    "WIDTHS": "config fields that `--width` multiplies, of a file's networks",
    "log": "the logger of a module",
}
"""Public names that stand in several modules, and why."""

FORWARDED = {"api", "__init__"}
"""Modules that give a function of another module under its own name."""


def words(name: str) -> list[str]:
    """Split a name at underscores and capitals."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def banned(text: str) -> list[str]:
    identifiers = (word for word in re.findall(r"[A-Za-z_]+", text) if word not in STANDARD)
    parts = (part for word in identifiers for part in words(word))
    return [part for part in parts if BANNED.fullmatch(part)]


def prose_and_names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every name, docstring and comment of a Python file."""
    text = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NAME, tokenize.COMMENT):
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        bodies = getattr(node, "body", [])
        for statement in bodies if isinstance(bodies, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value


def label(path: Path) -> str:
    return "/".join(
        path.parts[path.parts.index("src") + 2 :] if "src" in path.parts else path.parts[-2:]
    )


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_a_module_begins_with_a_statement(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    if docstring is None:
        assert path.name == "__init__.py"
        assert not path.read_text().strip()
        return
    first = docstring.splitlines()[0]
    assert "?" not in first
    assert first.rstrip().endswith((".", ":", ")"))


@pytest.mark.parametrize("path", NATIVE, ids=label)
def test_a_native_file_begins_with_a_statement(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("// ")
    assert "?" not in first


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_no_metaphors(path: Path) -> None:
    lines = [(line, banned(text)) for line, text in prose_and_names(path)]
    assert not [(line, hits) for line, hits in lines if hits]


@pytest.mark.parametrize("path", NATIVE, ids=label)
def test_no_metaphors_in_the_core(path: Path) -> None:
    lines = enumerate(path.read_text().splitlines(), start=1)
    assert not [(number, banned(line)) for number, line in lines if banned(line)]


def stored_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of every variable, parameter and field."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_no_variable_is_a_participle(path: Path) -> None:
    names = stored_names(ast.parse(path.read_text()))
    assert not [(line, name) for line, name in names if name in PARTICIPLES]


def top_level_names(path: Path) -> Iterator[str]:
    """Yield the public names that a module defines, without those that it imports."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_a_public_name_has_one_meaning() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        if path.stem in FORWARDED or label(path).startswith("cli/"):
            continue
        for name in set(top_level_names(path)):
            if not name.startswith("_"):
                places[name].append(label(path))
    homonyms = {name: files for name, files in places.items() if len(files) > 1}
    assert not {name: files for name, files in homonyms.items() if name not in SHARED_NAMES}


def test_the_checks_see_what_they_look_for() -> None:
    assert banned("the weights_told and LivingWeight") == ["told", "living"]
    assert not banned("landscape, allocate, deadline, of course".replace(", of course", ""))
    assert list(stored_names(ast.parse("found = 1"))) == [(1, "found")]
