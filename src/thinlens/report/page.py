"""HTML pages of tables and pictures, which are linked relative to the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from thinlens.files import atomic_write
from thinlens.report.tables import Table

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #1a202c; background: #fff; }
h1, h2 { line-height: 1.2; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #e2e8f0; text-align: left; }
.number { text-align: right; }
figure { margin: 1.5rem 0; overflow-x: auto; }
figcaption { color: #4a5568; }
"""


@dataclass(frozen=True)
class Picture:
    """A picture file and its caption."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading and its content, in the order of the fields."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page at `path`; pictures are linked relative to it, so a folder can be moved."""
    body = "\n".join(_section(section, path.parent) for section in sections)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )
    with atomic_write(path) as file:
        file.write(page.encode())


def _section(section: Section, folder: Path) -> str:
    parts = [f"<h2>{escape(section.heading)}</h2>"]
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.paragraphs]
    parts += [table.html() for table in section.tables]
    for picture in section.pictures:
        link = quote(picture.path.relative_to(folder).as_posix())
        parts.append(
            f'<figure><img src="{link}" alt="{escape(picture.caption)}">'
            f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        )
    return "\n".join(parts)
