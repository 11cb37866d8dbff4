"""What is a verb of the command line, and what does it answer?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Answer:
    """What a verb found or did."""

    content: dict[str, Any]
    """The object that `--json` prints; its keys are a promise."""
    text: tuple[RenderableType, ...] = ()
    """What a person reads instead."""
    failures: tuple[str, ...] = ()
    """What went wrong with single images, for stderr; any makes the exit status 1."""


@dataclass(frozen=True, kw_only=True)
class Verb(ABC):
    """A verb: its fields are the flags, their docstrings the help, its docstring the summary."""

    json: bool = False
    """Print exactly one JSON object on stdout; logs go to stderr."""

    @abstractmethod
    def run(self) -> Answer:
        """Do the work. Raise `UsageError` or `RunError` with one sentence where it cannot be."""
