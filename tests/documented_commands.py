"""The code blocks of the documentation, and the reasons why some are not run.

A comment above a block says so: `<!-- not run: REASON -->` or `<!-- run by tests/FILE.py -->`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from site_pages import ROOT, SITE_PAGES

BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(thinlens [^`]+)`")
CONTINUED = re.compile(r"(\||\\)\n\s*")

PAGES = [*SITE_PAGES, ROOT / "README.md"]
OPERATORS = {"|", ">", "&&", "<"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    note: str
    """The comment above it, or nothing."""
    info: str
    """The text after the three backticks: a language, and often a file."""
    text: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def is_run(self) -> bool:
        return not self.note.startswith(("not run: ", "run by "))

    def commands(self) -> list[list[str]]:
        """Return the words of each line; a comment at its end is none of them."""
        lines = CONTINUED.sub(r"\1 ", self.text.replace("\\\n", " ")).splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
        return [line for line in words if line]


def blocks(page: Path) -> Iterator[Block]:
    for note, info, text in BLOCK.findall(page.read_text()):
        yield Block(page, note, info, text)


def inline_commands(page: Path) -> list[str]:
    """Return the commands within sentences and tables."""
    return INLINE.findall(BLOCK.sub("", page.read_text()))


def thinlens_words(words: list[str]) -> Iterator[list[str]]:
    """Yield what follows `thinlens` in a line, up to a pipe or a redirection."""
    for start, word in enumerate(words):
        if word == "thinlens":
            rest = words[start + 1 :]
            end = next((i for i, other in enumerate(rest) if other in OPERATORS), len(rest))
            yield rest[:end]
