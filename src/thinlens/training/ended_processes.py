"""Which of several training processes ended, by a store in which the others answer.

A process that waits for one which waits for the killed one does not notice the kill itself: a
thread of each answers, as soon as one process states that a connection broke.
"""

from __future__ import annotations

import atexit
import threading
import time
from typing import Any

ANSWER_SECONDS = 20.0
"""In which processes answer, and then read who did not."""

POLL_STORE_SECONDS = 0.5
"""Between two looks at the store."""


class EndedProcesses:
    """The processes of a run that ended; `store` is torchrun's, or that of the main process."""

    def __init__(self, store: Any, rank: int, count: int) -> None:
        self._store, self._rank, self._count = store, rank, count
        self._stop = threading.Event()
        self._ended: list[int] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        atexit.register(self._close)

    def ranks(self) -> list[int]:
        """Return the processes that ended; call it where a connection broke."""
        try:
            self._store.set("thinlens-broken", "")
        except Exception:  # the store ended with its process
            return self._ended or [0]
        self._thread.join(3 * ANSWER_SECONDS)
        return self._ended or [0]

    def _watch(self) -> None:
        """Wait for a broken connection; then answer, and read who does not."""
        try:
            while not self._store.check(["thinlens-broken"]):
                if self._stop.wait(POLL_STORE_SECONDS):
                    return
            self._store.set(f"thinlens-runs-{self._rank}", "")
            self._ended = self._missing("thinlens-runs", most=1)
            self._store.set(f"thinlens-knows-{self._rank}", "")
            if self._rank == 0:  # the store may end with this process
                self._missing("thinlens-knows", most=len(self._ended))
        except Exception:  # the store ended with its process, at the end of a run too
            return

    def _missing(self, word: str, most: int) -> list[int]:
        """Wait until at most so many processes have not set a word; return those."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            ranks = range(self._count)
            missing = [x for x in ranks if not self._store.check([f"{word}-{x}"])]
            if len(missing) <= most or time.monotonic() > deadline:
                return missing
            time.sleep(POLL_STORE_SECONDS)

    def _close(self) -> None:
        self._stop.set()
        self._thread.join(2 * POLL_STORE_SECONDS)
