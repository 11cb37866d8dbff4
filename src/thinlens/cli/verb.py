"""The interface of a command: its flags, and the answer that it prints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from thinlens.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Answer:
    """The result of a command."""

    content: dict[str, Any]
    """The object that `--json` prints; its keys are frozen."""
    text: tuple[RenderableType, ...] = ()
    """The output without `--json`."""
    failures: tuple[str, ...] = ()
    """Errors of single images, for stderr; any makes the exit status 1."""


@dataclass(frozen=True, kw_only=True)
class Verb(ABC):
    """A command: its fields are the flags, their docstrings the help, its docstring the summary."""

    ANSWER_STREAM: ClassVar[Literal["stdout", "stderr"]] = "stdout"
    """Where the answer is printed; a command whose results go to stdout prints on stderr."""

    HAS_OUT_ALONE: ClassVar[bool] = False
    """Whether no other process may write to the folder `--out` meanwhile."""

    PRINTS_ONCE: ClassVar[bool] = False
    """Whether of torchrun's processes the main one alone prints, as where `HAS_OUT_ALONE`."""

    json: bool = False
    """Print exactly one JSON object on stdout; logs go to stderr."""
    allow: Annotated[str | None, tyro.conf.arg(metavar="PACKAGE", help_behavior_hint="")] = None
    """Packages, separated by commas, whose factories of networks a checkpoint may name and this
    command then imports: only those that you trust."""

    @property
    def allowed_packages(self) -> tuple[str, ...]:
        """The packages of `--allow`."""
        return tuple(name.strip() for name in (self.allow or "").split(",") if name.strip())

    @abstractmethod
    def run(self) -> Answer:
        """Execute the command. Raise `UsageError` or `RunError` with one sentence on failure."""


def refuse_for_networks(source: str, **flags: object) -> None:
    """Raise `UsageError` for a flag that only bundles have."""
    for name, value in flags.items():
        if value is not None and value is not False:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is for bundles (thinlens adapt); {source} is none")
