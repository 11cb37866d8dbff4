"""Print text and tables for people: on a terminal in its width, elsewhere never folded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

PIPE_WIDTH = 400
"""Console width in columns for a file or a pipe, where nothing is folded."""


def print_text(parts: Iterable[RenderableType], stream: TextIO) -> None:
    """Print sentences and tables, one after the other."""
    from rich.console import Console

    # A file or a pipe has no width: nothing is folded there.
    console = Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH)
    for part in parts:
        # Text goes out as it is: a terminal folds it, and what is copied has no breaks of ours.
        console.print(
            part, highlight=False, markup=False, emoji=False, soft_wrap=isinstance(part, str)
        )
    stream.flush()
