"""Locks of the operating system on files and folders, which end with their process."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thinlens.errors import RunError

try:
    import fcntl
except ImportError:  # Windows, where every disk counts as one without locks
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL}
"""Errors of disks that have no such locks, some network disks (a folder on NFS is EBADF)."""

RETRY_SECONDS = 0.05
"""Between two attempts at a lock that another process holds."""


def try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock an open file or folder without waiting.

    Returns whether it is locked now; None where the disk or the system has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def wait_for_lock(descriptor: int) -> None:
    """Lock an open file, as soon as no other process has; nothing where there are no locks."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def is_at(path: Path, descriptor: int) -> bool:
    """Return whether `path` is still the open file: another process may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class FolderLock:
    """A lock on a folder, exclusive until `share` is called; it is no file, and none stays behind.

    The folder is created where it is missing, and removed at the end if it is empty then. Within
    one thread a folder can be locked again: an inner lock is part of the outer one.
    """

    def __init__(self, folder: Path, *, shares: bool = False, wait: float = 0.0) -> None:
        self._folder, self._shares, self._wait = folder, shares, wait
        self._descriptor: int | None = None
        self._created: list[Path] = []
        self._key = (0, 0, 0)
        self.is_exclusive = False
        """Whether no other process uses the folder; with `shares` others may."""

    def __enter__(self) -> FolderLock:
        try:
            self._acquire()
        except OSError as error:
            self._close()
            reason = error.strerror or error
            raise RunError(f"cannot write {self._folder}: {reason}") from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def share(self) -> None:
        """Allow others to share the folder from now on."""
        if self.is_exclusive and self._descriptor is not None and self._shares:
            self.is_exclusive = False
            try_lock(self._descriptor, shared=True)

    def _acquire(self) -> None:
        deadline = time.monotonic() + self._wait
        while True:
            self._created += _create(self._folder)
            descriptor = os.open(self._folder, os.O_RDONLY)
            status = os.fstat(descriptor)
            self._key = (status.st_dev, status.st_ino, threading.get_ident())
            if self._key in _held:
                os.close(descriptor)
                self.is_exclusive = True
                return
            self._descriptor = descriptor
            if self._lock(descriptor) and is_at(self._folder, descriptor):
                _held.update({self._key} if self.is_exclusive else ())
                return
            os.close(descriptor)
            self._descriptor = None
            if time.monotonic() >= deadline:
                raise RunError(
                    f"another process is writing to {self._folder}: wait until it ends, or choose "
                    "another folder"
                )
            time.sleep(RETRY_SECONDS)

    def _lock(self, descriptor: int) -> bool:
        exclusive = try_lock(descriptor)
        if exclusive is None:
            log.warning(
                "the disk of %s has no locks: start one process at a time there", self._folder
            )
        self.is_exclusive = exclusive is not False
        return self.is_exclusive or (self._shares and try_lock(descriptor, shared=True) is True)

    def _close(self) -> None:
        if self._descriptor is None:
            return
        _held.discard(self._key)
        for folder in reversed(self._created):
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        os.close(self._descriptor)
        self._descriptor = None


_held: set[tuple[int, int, int]] = set()
"""Device, inode and thread of the folders that this process has locked exclusively."""


@contextmanager
def exclusive_folder(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes of thinlens from writing to a folder; `RunError` where one does.

    `wait` are seconds for which another may still hold it.
    """
    with FolderLock(folder, wait=wait):
        yield


def _create(folder: Path) -> list[Path]:
    """Create a folder and return those that did not exist, from the top."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]
