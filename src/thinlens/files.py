"""Atomic file writes, reads of what others write meanwhile, and JSON-lines logs."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from thinlens.errors import RunError, UsageError
from thinlens.file_locks import wait_for_lock
from thinlens.temporary_files import create_temporary

_Result = TypeVar("_Result")

_PROBE_BYTES = 2**16
"""Bytes whose writing shows whether a disk is full."""

MOST_READS = 100
"""Attempts to read files that another process replaces meanwhile."""


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing; it changes whole at the end, or not at all.

    The bytes are written to a temporary file beside it, flushed to disk and renamed to `path`,
    whose mode is kept (a new file's follows the umask). A write that fails, on a full disk, is a
    `RunError` with `path`, whatever the code that wrote made of it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_UMASK
        descriptor, beside = create_temporary(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    raw = _RecordingFile(descriptor, "wb")
    file = io.BufferedWriter(raw)
    try:
        yield file
        file.flush()
        os.fsync(descriptor)
        beside.chmod(mode)
        beside.replace(path)  # before it is closed: until then it is locked
        file.close()
        _fsync_folder(path.parent)
    except BaseException as error:
        reason = _write_failure(error, raw)
        with suppress(OSError):  # what is not written yet
            file.close()
        beside.unlink(missing_ok=True)
        if reason is not None:
            raise RunError(f"cannot write {path}: {reason}") from error
        raise


class _RecordingFile(io.FileIO):
    """A file that records why a write failed: not all libraries pass the reason on."""

    failure: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.failure = error
            raise


def _write_failure(error: BaseException, raw: _RecordingFile) -> str | None:
    """Return why a write failed, if that is what ended the writing."""
    failure = raw.failure
    if failure is None and isinstance(error, OSError):
        failure = error if error.errno else _probe(raw) or error
    if failure is None or not isinstance(error, Exception):
        return None
    return failure.strerror or os.strerror(errno.EIO)


def _probe(raw: _RecordingFile) -> OSError | None:
    """Return the error of one more write: libraries that write by the descriptor lose theirs."""
    try:
        os.write(raw.fileno(), bytes(_PROBE_BYTES))
    except OSError as error:
        return error
    return None


def read_unchanged(paths: Sequence[Path], read: Callable[[], _Result]) -> _Result:
    """Return `read()`, which reads `paths`, as it was before or after another process saved.

    Where it raises and the files changed meanwhile, it is called again; else that is passed on.
    """
    for _ in range(MOST_READS - 1):
        before = [file_version(path) for path in paths]
        try:
            return read()
        except (UsageError, OSError):
            if [file_version(path) for path in paths] == before:
                raise
    return read()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


FileVersion = tuple[int, int, int] | None
"""Inode, bytes and time of the last change; None where there is no file."""


def file_version(path: Path) -> FileVersion:
    """Return what changes when a file is replaced; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_cached_object(path: Path, most_bytes: int) -> dict[str, Any]:
    """Return the JSON object of a cache file; empty where it is missing, damaged or too large."""
    try:
        if path.stat().st_size > most_bytes:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write `content` as JSON, atomically; without `indent` in one line, twenty times as fast."""
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=indent) + "\n").encode())


class JsonLines:
    """A log of JSON objects, one a line, that survives kill -9 and several writers.

    At most the last line is lost when a process is killed: `read` skips a line that is incomplete
    or no object.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._read_bytes = 0, 0
        self.is_whole = True
        """Whether every line that was read is complete and an object."""

    def read(self) -> list[dict[str, Any]]:
        """Return the objects of all complete lines; none where there is no file."""
        self._inode, self._read_bytes = 0, 0
        return self.read_added()

    def read_added(self) -> list[dict[str, Any]]:
        """Return the objects of the lines that were added since the last reading, by anyone."""
        return [record for _, record in self.added()]

    def added(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the same, each with the byte where its line begins; one line is in memory."""
        try:
            file = self._path.open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._read_bytes:
                self._inode, self._read_bytes = status.st_ino, 0
            file.seek(self._read_bytes)
            for line in file:
                record = _object(line) if line.endswith(b"\n") else None
                self.is_whole &= record is not None
                if not line.endswith(b"\n"):
                    return
                start, self._read_bytes = self._read_bytes, self._read_bytes + len(line)
                if record is not None:
                    yield start, record

    def at(self, start: int) -> dict[str, Any] | None:
        """Return the object of the line that begins at this byte; None where there is none."""
        return next(self.all_at([start]), None)

    def all_at(self, starts: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield the objects of the lines that begin at these bytes; one line is in memory."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            for start in starts:
                file.seek(start)
                record = _object(file.readline())
                if record is not None:
                    yield record

    def rewrite(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace all lines, atomically, while no other process appends."""
        with atomic_write(self._path) as file:
            file.writelines(_line(record).encode() for record in records)

    def append(self, record: Mapping[str, Any], *, fsync: bool = False) -> int:
        """Add a line and pass it to the system, with `fsync` to the disk.

        It begins a new line where another process was killed within one. Returns the byte where it
        begins. Raises `RunError` where it cannot be written.
        """
        try:
            with self._path.open("ab+") as file:
                wait_for_lock(file.fileno())
                line = _line(record).encode()
                file.write(_line_break(file) + line)
                file.flush()
                if fsync:
                    os.fsync(file.fileno())
                return file.tell() - len(line)
        except OSError as error:
            raise RunError(f"cannot write {self._path}: {error.strerror or error}") from error


def _line_break(file: BinaryIO) -> bytes:
    """Return what ends the last line of a file, if it is incomplete."""
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


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
