"""docs/methods: every method has a page with all its options, and its references exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from thinlens.cli.method_flags import field_docs
from thinlens.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs" / "methods").glob("*.md"))}
REFERENCE = re.compile(r"`(src/thinlens/[\w/]+\.py):(\w+)`")


def section(name: str) -> str:
    """Return the part of a page that lists the options of a method."""
    for page in PAGES.values():
        if f"\n### `{name}`\n" in page:
            return re.split(r"\n##+ ", page.split(f"\n### `{name}`\n")[1])[0]
        if f"thinlens prune {name} " in page and "\n### `" not in page:
            return page
    raise AssertionError(f"no page has {name}")


@pytest.mark.parametrize("name", METHODS)
def test_a_page_lists_every_option_with_its_default_and_meaning(name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)`[^|]* \| (.*) \|$", section(name), re.MULTILINE)
    kind = METHODS[name]
    docs = field_docs(kind)
    options = [field for field in fields(kind) if field.name not in kind.NOT_FLAGS]
    assert [row[0] for row in rows] == [field.name for field in options]
    assert [row[1] for row in rows] == [str(field.default) for field in options]
    assert [row[2].replace("\\|", "|") for row in rows] == [docs[x.name] for x in options]


@pytest.mark.parametrize("page", PAGES)
def test_every_reference_names_a_definition(page: str) -> None:
    references = REFERENCE.findall(PAGES[page])
    assert references
    for path, name in references:
        assert re.search(rf"^ *(def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE), name


@pytest.mark.parametrize("name", METHODS)
def test_every_preset_is_listed(name: str) -> None:
    for preset in METHODS[name].PRESETS:
        assert f"| `{preset}`" in section(name)
