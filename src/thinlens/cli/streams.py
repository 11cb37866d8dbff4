"""Standard streams that the caller closed: they are opened on the null device."""

from __future__ import annotations

import os
import sys

STREAMS = ("stdin", "stdout", "stderr")
"""By file descriptor."""


def open_closed_streams() -> None:
    """Open each closed standard stream on the null device.

    Python has None for one that was closed (`2>&-`), and the next file that is opened would get its
    descriptor: what a native library writes to stderr would then go into that file.
    """
    for descriptor, name in enumerate(STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w"))
