"""How do numbers become tables for a terminal, for Markdown and for HTML?"""

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
    """Rows of text under headings; columns whose entries are all numbers lean right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells under {len(self.columns)} headings")

    def rich(self) -> rich.table.Table:
        """Return the table for a terminal."""
        import rich.box
        import rich.table
        from rich.text import Text

        table = rich.table.Table(title=self.title or None, box=rich.box.SIMPLE_HEAD)
        for index, column in enumerate(self.columns):
            lean: JustifyMethod = "right" if self._numeric(index) else "left"
            table.add_column(Text(column), justify=lean, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def markdown(self) -> str:
        """Return the table as Markdown, its title in bold above."""
        lean = ["---:" if self._numeric(i) else "---" for i in range(len(self.columns))]
        lines = [list(self.columns), lean, *self.rows]
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


def count(number: int) -> str:
    """Write a whole number in groups of three digits."""
    return f"{number:,}"


def giga(macs: int) -> str:
    """Write multiply-adds in billions."""
    return f"{macs / 1e9:.2f}"


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "").removesuffix("%"))
    except ValueError:
        return False
    return True
