"""What is a verb of the command line, and what does it answer?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thinlens.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

ENGINES = ("auto", "torch", "native")


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


def check_engine(name: str) -> None:
    """Refuse an engine that is not there."""
    if name not in ENGINES:
        raise UsageError(f"--engine {name!r}: wanted {', '.join(ENGINES)}")
    if name == "native":
        raise UsageError("--engine native: this version has no native engine yet; wanted torch")
