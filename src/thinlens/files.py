"""Atomic file writes, JSON-lines logs that survive kill -9, and removal of interrupted writes."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import Any, BinaryIO

from thinlens.errors import RunError

_LEFTOVER = re.compile(r"^\..*\.thinlens-[a-z0-9_]{8}$")

_SHORT_NAME = 32
"""Bytes of a name that every file system takes."""


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing; it changes whole at the end, or not at all.

    The bytes are written to a temporary file beside it, flushed to disk and renamed to `path`,
    whose mode is kept (a new file's follows the umask). A full disk is a `RunError` with `path`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_UMASK
        descriptor, name = mkstemp(dir=path.parent, prefix=_temporary_prefix(path.name))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        beside.chmod(mode)
        beside.replace(path)
        _fsync_folder(path.parent)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        # torch reports a failing stream as RuntimeError (PytorchStreamWriter), not as OSError.
        failed_stream = isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error)
        if isinstance(error, OSError) or failed_stream:
            reason = getattr(error, "strerror", None) or "the disk is full or the write failed"
            raise RunError(f"cannot write {path}: {reason}") from error
        raise


def _temporary_prefix(name: str) -> str:
    """Return the beginning of a temporary name, to which `mkstemp` adds eight characters.

    It is not longer than `name`, or short: names have limits, which the final one may just meet.

    >>> _temporary_prefix("a.png")
    '.a.png.thinlens-'
    >>> len(_temporary_prefix("x" * 255)) + 8
    255
    """
    ending = ".thinlens-"
    most = max(len(os.fsencode(name)), _SHORT_NAME) - len(ending) - 8 - 1
    start = os.fsencode(name)[:most].decode(errors="ignore")
    return f".{start}{ending}"


def read_cached_object(path: Path, most_bytes: int) -> dict[str, Any]:
    """Return the JSON object of a cache file; empty where it is missing, damaged or too large."""
    try:
        if path.stat().st_size > most_bytes:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


class JsonLines:
    """A log of JSON objects, one a line, that survives kill -9.

    At most the last line is lost when a process is killed: `read` skips a line that is incomplete
    or no object.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[dict[str, Any]]:
        """Return the objects of all complete lines; none where there is no file."""
        if not self._path.is_file():
            return []
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [record for record in map(_object, lines) if record is not None]

    def rewrite(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace all lines, atomically; call it before `append`, to drop an incomplete line."""
        content = "".join(map(_line, records))
        with atomic_write(self._path) as file:
            file.write(content.encode())

    def append(self, record: Mapping[str, Any], *, fsync: bool = False) -> None:
        """Add a line and pass it to the system, with `fsync` to the disk.

        Raises `RunError` where it cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(record))
                file.flush()
                if fsync:
                    os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self._path}: {error.strerror or error}") from error


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _object(line: str) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def sweep_leftovers(folder: Path) -> int:
    """Remove temporary files of killed writers in `folder`, older than this process."""
    swept = 0
    for entry in folder.iterdir() if folder.is_dir() else ():
        if _LEFTOVER.match(entry.name):
            try:
                if entry.stat().st_mtime < _STARTED:
                    entry.unlink()
                    swept += 1
            except OSError:
                continue  # another process removed it, or this one may not
    return swept


_STARTED = time.time()


def _umask() -> int:
    """Return the umask; the only portable way is to set and restore it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()
"""Read once at import: while it is read, other threads' new files would be world-writable."""


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
