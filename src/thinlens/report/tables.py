"""Tables of text for terminals, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.table
    from rich.console import JustifyMethod


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; columns of numbers are aligned right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells under {len(self.columns)} headings")

    def rich(self) -> rich.table.Table:
        """Return the table as a `rich` renderable."""
        import rich.box
        import rich.table
        from rich.text import Text

        table = rich.table.Table(title=self.title or None, box=rich.box.SIMPLE_HEAD)
        for index, column in enumerate(self.columns):
            justify: JustifyMethod = "right" if self._numeric(index) else "left"
            table.add_column(Text(column), justify=justify, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def markdown(self) -> str:
        """Return the table as Markdown, its title in bold above."""
        alignment = ["---:" if self._numeric(i) else "---" for i in range(len(self.columns))]
        lines = [list(self.columns), alignment, *self.rows]
        body = "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in r) + " |" for r in lines)
        return f"**{self.title}**\n\n{body}\n" if self.title else f"{body}\n"

    def html(self) -> str:
        """Return the table as HTML."""
        numeric = [self._numeric(index) for index in range(len(self.columns))]

        def line(cells: Sequence[str], tag: str) -> str:
            kinds = [' class="number"' if right else "" for right in numeric]
            return "".join(
                f"<{tag}{kind}>{escape(cell)}</{tag}>"
                for cell, kind in zip(cells, kinds, strict=True)
            )

        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in self.rows)
        return (
            f"<table>{caption}<thead><tr>{line(self.columns, 'th')}</tr></thead>\n"
            f"<tbody>{body}</tbody></table>"
        )

    def _numeric(self, index: int) -> bool:
        cells = [row[index] for row in self.rows if row[index] not in ("", "-")]
        return bool(cells) and all(_is_number(cell) for cell in cells)


def format_integer(number: int) -> str:
    """Format an integer in groups of three digits: 826,800."""
    return f"{number:,}"


def format_giga(macs: int) -> str:
    """Format multiply-adds in billions: 39.86."""
    return f"{macs / 1e9:.2f}"


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "").removesuffix("%"))
    except ValueError:
        return False
    return True
