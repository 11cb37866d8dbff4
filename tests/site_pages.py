"""The Markdown files of the documentation site."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _pages() -> list[Path]:
    """Return the files that the site's settings include."""
    settings = (ROOT / "docs" / "site" / "conf.py").read_text()
    listed = re.search(r"include_patterns = \[(.*?)\]", settings, re.DOTALL)
    assert listed
    patterns = [text.replace("**.", "**/*.") for text in re.findall(r'"(.+?)"', listed[1])]
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


SITE_PAGES = _pages()


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()
