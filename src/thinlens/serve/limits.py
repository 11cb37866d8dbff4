"""Limits of the server: what one image may be, how many wait, and how long results are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

from thinlens.errors import UsageError
from thinlens.images.opening import MAX_PIXELS

MOST_BYTES = 256 * 2**20
"""Of one uploaded file."""

MOST_WAITING = 16
"""Images that are uploaded, wait or are restored at once; one more is refused."""

MOST_SECONDS = 600.0
"""For which one image is uploaded, and then restored."""

MOST_RESULTS = 32
"""Finished images whose files are kept; the oldest is removed for one more."""

KEPT_SECONDS = 900.0
"""For which a finished image is kept since somebody last asked for it."""

_SIZE = re.compile(r"(\d{1,6})([KMG]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class ServerLimits:
    """What the server takes of each image and of all together."""

    pixels: int = MAX_PIXELS
    """Images with more are refused by their header."""
    bytes: int = MOST_BYTES
    """Of an uploaded file."""
    waiting: int = MOST_WAITING
    """Images that are not finished."""
    seconds: float = MOST_SECONDS
    """For the upload of an image, and for its restoration."""
    results: int = MOST_RESULTS
    """Finished images whose files are kept."""
    kept_seconds: float = KEPT_SECONDS
    """After which an unused result is removed."""

    def __post_init__(self) -> None:
        for flag, value in (
            ("--max-pixels", self.pixels),
            ("--max-bytes", self.bytes),
            ("--max-jobs", self.waiting),
            ("--max-seconds", self.seconds),
        ):
            if not value > 0:
                raise UsageError(f"{flag} {value}: wanted more than 0")


def file_bytes(text: str) -> int:
    """Parse the size of a file.

    >>> file_bytes("256M") == 256 * 2**20, file_bytes("500")
    (True, 500)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--max-bytes {text!r}: wanted a size such as 256M or 2G")
    return int(match[1]) * _UNITS[match[2].upper()]
