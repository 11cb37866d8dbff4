"""Sphinx's settings of the documentation site: `make docs`. It fetches nothing, nor do its pages.

The source folder is the repository, so that links between its Markdown files are the same on the
site as in any viewer, and no page is copied.
"""

from __future__ import annotations

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
html_extra_path = ["index.html"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
