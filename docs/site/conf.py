"""Sphinx's settings of the documentation site: `make docs`. It fetches nothing, nor do its pages.

The source folder is the repository, so that links between its Markdown files are the same on the
site as in any viewer, and no page is copied.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from reference import with_generated

project = "thinlens"
html_title = "thinlens"
needs_sphinx = "9.0"

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "examples/README.md",
    "src/thinlens/weights/*/README.md",
]
exclude_patterns = [".*", "build", "dist", "*-out", "runs"]
nitpicky = True

HEADING_LEVELS = 3
"""How deep headings have anchors, which links name as GitHub does."""

myst_heading_anchors = HEADING_LEVELS
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "github-dark"

html_theme = "furo"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_extra_path = ["index.html"]
html_copy_source = False
html_show_search_summary = False  # browsers refuse to fetch pages of files
html_show_sourcelink = False
html_show_copyright = False


def setup(app: Any) -> None:
    """Put the generated reference in the place of its comments."""
    app.connect("source-read", replace_comments)


def replace_comments(app: Any, name: str, source: list[str]) -> None:
    """Change the text of a page, which Sphinx passes as a list of one."""
    source[0] = with_generated(source[0])
