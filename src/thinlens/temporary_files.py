"""Temporary files beside those that they replace: locked while they are written, swept afterwards.

A writer holds a lock on its temporary file, which ends with its process. A file without a lock is
therefore the leftover of a killed one, and may be removed while other processes write.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

from thinlens.file_locks import try_lock, wait_for_lock

_RANDOM = 8
"""Characters that `mkstemp` adds to a prefix."""

_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:3]
"""Of this machine, in the names of its temporary files."""

_ENDING = f".thinlens-{_HOST}-"

_LEFTOVER = re.compile(r"^\..*\.thinlens-(?:([0-9a-f]{3})-)?[a-z0-9_]{8}$")
"""Names of temporary files, those of earlier versions without a machine."""

_CLAIM = re.compile(r"^\.[0-9a-f]{16}\.thinlens-claim$")

_SHORT_NAME = 40
"""Bytes of a name that every file system takes."""

OTHER_HOST_SECONDS = 3600.0
"""Since its last change, a file of another machine is no leftover: its lock may not reach here."""


def claim_name(name: str) -> str:
    """Return the name of the file that a process locks while it works on `name`.

    >>> claim_name("photos/a.png")
    '.ed1f6ae858570d0f.thinlens-claim'
    """
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.thinlens-claim"


def create_temporary(path: Path) -> tuple[int, Path]:
    """Create a temporary file beside `path`, locked; return its descriptor and its path."""
    while True:
        descriptor, name = mkstemp(dir=path.parent, prefix=temporary_prefix(path.name))
        wait_for_lock(descriptor)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)  # it was swept before it was locked


def temporary_prefix(name: str) -> str:
    """Return the beginning of a temporary name, to which `mkstemp` adds eight characters.

    It is not longer than `name`, or short: names have limits, which the final one may just meet.

    >>> temporary_prefix("a.png").startswith(".a.png.thinlens-")
    True
    >>> len(temporary_prefix("x" * 255)) + 8
    255
    """
    most = max(len(os.fsencode(name)), _SHORT_NAME) - len(_ENDING) - _RANDOM - 1
    start = os.fsencode(name)[:most].decode(errors="ignore")
    return f".{start}{_ENDING}"


def sweep_leftovers(folder: Path) -> int:
    """Remove the temporary files and claims of killed processes in `folder`; return their number.

    Those of running processes stay.
    """
    swept = 0
    try:
        entries = list(folder.iterdir())
    except OSError:
        return 0
    for entry in entries:
        match = _LEFTOVER.match(entry.name)
        if match or _CLAIM.match(entry.name):
            same_host = match is None or match[1] == _HOST
            with suppress(OSError):  # another process removed it, or this one may not
                swept += _remove_unlocked(entry, same_host=same_host)
    return swept


def _remove_unlocked(path: Path, *, same_host: bool) -> bool:
    """Remove a file that no process has locked, while it is locked here; whether it was removed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        locked = try_lock(descriptor)
        is_old = time.time() - status.st_mtime > OTHER_HOST_SECONDS
        if locked is False or not (is_old or (locked and same_host)):
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)
