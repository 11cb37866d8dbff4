"""What does a folder of results remember of the inputs that are done?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from thinlens.errors import RunError
from thinlens.files import atomic_write, sweep_leftovers

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Record:
    """One input, as a line of the manifest."""

    path: str
    """Relative to the source folder."""
    size: int | None
    """Bytes of the input file; None if it could not be read."""
    sha256: str | None
    """Of the input file."""
    network: str
    """The first of the restorer's `identities`."""
    output: str
    """The result, relative to the manifest."""
    seconds: float
    error: str | None = None
    """Why there is no result."""
    tile: int | None = None
    """The longest side of the tiles that the input was cut into; None: it went through whole."""
    routes: dict[str, Any] | None = None
    """Which candidate restored which tile, by what estimates and at what cost."""


class Manifest:
    """The lines of OUT/manifest.jsonl, the last one of each input; survives kill -9."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / MANIFEST
        sweep_leftovers(folder)
        lines = self._path.read_text().splitlines() if self._path.is_file() else []
        read = [record for record in map(_record, lines) if record]
        self._records = {record.path: record for record in read}
        with atomic_write(self._path) as file:
            file.write("".join(_line(record) for record in self._records.values()).encode())

    def holds(self, wanted: Record, identities: Collection[str]) -> bool:
        """Tell whether this input went through a network of these identities before, and its
        result is there."""
        known = self._records.get(wanted.path)
        return (
            known is not None
            and known.error is None
            and known.sha256 is not None
            and known.network in identities
            and (known.sha256, known.output) == (wanted.sha256, wanted.output)
            and (self._path.parent / known.output).is_file()
        )

    def add(self, record: Record) -> None:
        """Append a line and hand it to the system."""
        self._records[record.path] = record
        try:
            with self._path.open("a") as file:
                file.write(_line(record))
        except OSError as error:
            raise RunError(f"cannot write {self._path}: {error.strerror}") from error


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(record: Record) -> str:
    return json.dumps(asdict(record)) + "\n"


def _record(line: str) -> Record | None:
    """Read a line; None for what a kill left half written or another program wrote."""
    try:
        content = json.loads(line)
        # older versions' lines lack the fields that have defaults
        known = {f.name for f in fields(Record)}
        return Record(**{key: content[key] for key in known & content.keys()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
