"""Warnings of decoders: recorded for each file, also where several threads decode.

`warnings.catch_warnings` changes what all threads do. Where files are decoded by threads, the main
thread therefore sorts warnings by thread before it starts them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DECODERS = r"(PIL|pyvips|pillow_jxl|pillow_heif)(\.|$)"
"""Modules whose warnings are always recorded."""

_threads = threading.local()


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """Record the warnings of this thread inside the context; others see none of them."""
    messages: list[str] = []
    if getattr(_threads, "sorted", False):
        outer = getattr(_threads, "messages", None)
        _threads.messages = messages
        try:
            yield messages
        finally:
            _threads.messages = outer
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(warning.message) for warning in caught]


@contextmanager
def warnings_by_thread() -> Iterator[None]:
    """Sort the warnings of decoders by thread; entered by the thread that starts the others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=DECODERS)
        plain = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            messages = getattr(_threads, "messages", None)
            if messages is None:
                plain(message, category, *place)
            else:
                messages.append(str(message))

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def sort_this_thread() -> None:
    """Declare that this thread runs only inside of `warnings_by_thread`."""
    _threads.sorted = True
