"""Which two kinds of failure does a user meet?"""

from __future__ import annotations


class UsageError(ValueError):
    """Wrong use or unusable input: one sentence saying what was wrong and what was wanted.

    The command line prints the sentence and exits with status 2.
    """


class RunError(RuntimeError):
    """A failure while running that the input did not cause (disk full, NaN): exit status 1."""
