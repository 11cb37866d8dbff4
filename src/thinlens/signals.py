"""Deferral of SIGINT and SIGTERM to points where all work is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from thinlens.errors import RunError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""The signals that are deferred."""


class Interrupted(BaseException):
    """Raised at a safe point after a signal; like KeyboardInterrupt, not an error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


class StopRequest:
    """The signal that has arrived inside `deferred_signals`, if any."""

    number: int | None = None

    def check(self) -> None:
        """Raise `Interrupted` if a signal has arrived; call it where everything is saved."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Store Ctrl-C and SIGTERM in a `StopRequest`; a second one raises `Interrupted` at once.

    One that was not checked by the end of the block raises `Interrupted` there, even in place of a
    `RunError`: a caller that lists such failures and continues would not notice it.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return

    def note(number: int, frame: FrameType | None) -> None:
        if request.number is not None:
            raise Interrupted(number)
        request.number = number

    previous = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    except RunError as failure:
        if request.number is not None:
            raise Interrupted(request.number) from failure
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    request.check()
