"""Exceptions for user errors and runtime failures, and the shared check of a choice."""

from __future__ import annotations

from collections.abc import Iterable


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
