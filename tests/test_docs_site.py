"""The documentation site: its navigation is its pages, and links between pages lead somewhere."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from site_pages import ROOT, SITE_PAGES, page_name

INDEX = ROOT / "docs" / "index.md"
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")


def navigation() -> list[str]:
    """Return the entries of the navigation, as patterns of paths from the root."""
    blocks = TOCTREE.findall(INDEX.read_text())
    lines = [line for block in blocks for line in block.splitlines()]
    entries = [line for line in lines if line and not line.startswith(":")]
    paths = [
        entry.removeprefix("../") if entry.startswith("../") else f"docs/{entry}"
        for entry in entries
    ]
    return [f"{path}.md" for path in paths]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_the_navigation_is_the_pages() -> None:
    names = [page_name(path) for path in SITE_PAGES if path != INDEX]
    entries = navigation()
    assert len(entries) == len(set(entries))
    assert not [name for name in names if not any(fnmatch(name, entry) for entry in entries)]
    assert not [entry for entry in entries if not any(fnmatch(name, entry) for name in names)]


@pytest.mark.parametrize("page", [*SITE_PAGES, ROOT / "README.md"], ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target
