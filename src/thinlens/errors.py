"""Exceptions for user errors and runtime failures, the check of a choice, and quoted calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


QUOTED_LENGTH = 80
"""Characters of an untrusted value in an error message."""


class UsageError(ValueError):
    """Wrong use or unusable input: one sentence with what was wrong and what was wanted.

    The command line prints the sentence and exits with status 2.
    """


class RunError(RuntimeError):
    """A failure while running that the input did not cause (disk full, NaN): exit status 1."""


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise `UsageError` unless `value` is one of `choices`, such as `get_args` of a `Literal`.

    >>> check_choice("rate", "fast", ["linear", "cosine", "constant"])
    Traceback (most recent call last):
    thinlens.errors.UsageError: rate 'fast': wanted linear, cosine or constant
    """
    *first, last = choices = list(choices)
    if value not in choices:
        listed = f"{', '.join(first)} or {last}" if first else last
        raise UsageError(f"{name} {value!r}: wanted {listed}")


def quoted(value: object) -> str:
    """Quote an untrusted value for an error: escaped, and at most `QUOTED_LENGTH` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= QUOTED_LENGTH else f"{text[: QUOTED_LENGTH - 3]}..."


def quote_call(function: Callable[P, T]) -> Callable[P, T]:
    """Add the caller's call as a note to a `UsageError`, which tracebacks show below the sentence.

    >>> @quote_call
    ... def prune(budget):
    ...     raise UsageError("budget 2: wanted at most 1")
    >>> try:
    ...     prune(budget=2)
    ... except UsageError as error:
    ...     print(error, *error.__notes__, sep="\\n")
    budget 2: wanted at most 1
    in thinlens.prune(budget=2)
    """

    @functools.wraps(function)
    def quoted(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except UsageError as error:
            words = [*map(_word, args), *(f"{key}={_word(x)}" for key, x in kwargs.items())]
            error.add_note(f"in thinlens.{function.__name__}({', '.join(words)})")
            raise

    return quoted


def _word(value: object) -> str:
    if isinstance(value, str | int | float | tuple | None):
        return repr(value)
    return repr(str(value)) if isinstance(value, Path) else type(value).__name__
