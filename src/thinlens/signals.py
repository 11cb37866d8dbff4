"""How does a long job end at a safe point when it is told to stop?"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from thinlens.errors import RunError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The job was told to stop and stopped at a safe point; like KeyboardInterrupt, no error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = 128 + number


class StopRequest:
    """Whether Ctrl-C or SIGTERM has arrived since the job began."""

    number: int | None = None

    def check(self) -> None:
        """Raise `Interrupted` if a signal has arrived; call it where everything is saved."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Collect Ctrl-C and SIGTERM instead of dying at once; a second one is not waited for.

    One that nobody has asked for by the end of the block raises `Interrupted` there, even in place
    of a `RunError`: who lists such failures and goes on would never hear of it.
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
