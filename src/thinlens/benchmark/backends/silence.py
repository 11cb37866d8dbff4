"""Standard streams of native libraries: what they print would stand among a command's results."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OUTPUT, ERRORS = 1, 2
"""Descriptors of the standard streams."""


@contextmanager
def silence() -> Iterator[None]:
    """Send what the process prints, its libraries included, to nowhere."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    before = [os.dup(descriptor) for descriptor in (OUTPUT, ERRORS)]
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (OUTPUT, ERRORS):
            os.dup2(null, descriptor)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for descriptor, old in zip((OUTPUT, ERRORS), before, strict=True):
            os.dup2(old, descriptor)
            os.close(old)
        os.close(null)
