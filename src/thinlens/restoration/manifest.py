"""The manifest of a result folder: a JSON line for each input, so that a second run skips it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.files import JsonLines, file_hash
from thinlens.restoration.manifest_index import ManifestIndex
from thinlens.stored_values import from_stored

MANIFEST = "manifest.jsonl"

MANIFESTS = "manifest*.jsonl"
"""The pattern of the names of all manifests of a folder: shards have their own."""


@dataclass(frozen=True)
class ManifestRecord:
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
    """Of the network, and of waiting for a writer that is slower; those of all images add up to at
    most the run's."""
    error: str | None = None
    """Why there is no result."""
    tile: int | None = None
    """Longest side in pixels of the tiles that the input was cut into; None: it was not cut."""
    margin: int | None = None
    """The pixels around the tiles, if they were chosen; None: measured, or not cut."""
    routes: dict[str, Any] | None = None
    """The candidate of every tile, the estimated errors and the cost, of a bundle."""
    options: str = ""
    """What differs from the defaults and changes the result, as JSON."""
    output_size: int | None = None
    """Bytes of the result; None in manifests of earlier versions."""
    output_sha256: str | None = None
    """Of the result."""
    clipped: float | None = None
    """The share of values that the network returned far outside of [0, 1], if it is notable."""
    version: str | None = None
    """What an object store calls the hash of the input."""


class ResultManifest:
    """The lines of a folder's manifests, the last one of each input; survives kill -9.

    All manifests are read, the one called `name` is written. Several processes may add lines at
    once, and see each other's by `refresh`. Lines stay on the disk: `ManifestIndex`.
    """

    def __init__(
        self,
        folder: Path,
        name: str = MANIFEST,
        is_intact: Callable[[ManifestRecord], bool] | None = None,
    ) -> None:
        self._is_intact = is_intact or self._is_intact_file
        self._folder = folder
        others = [path for path in folder.glob(MANIFESTS) if path.name != name]
        others.sort(key=lambda path: path.stat().st_mtime)  # the newest counts
        self._index = ManifestIndex([*map(JsonLines, [*others, folder / name])])
        self._from_others: set[str] = set()
        """Inputs whose lines other processes have added since then."""

    def start_log(self, name: str) -> None:
        """Add the next lines to a manifest of this name."""
        self._index.start_log(JsonLines(self._folder / name))

    def refresh(self) -> None:
        """Read the lines that other processes have added."""
        for line in self._index.added():
            if line != self._index.get(line["path"]):
                self._from_others.add(line["path"])

    def earlier(self, name: str) -> ManifestRecord | None:
        """Return the last record of an input; None where there is none."""
        line = self._index.get(name)
        return None if line is None else read_record(line)

    def failure(self, current: ManifestRecord, identities: Collection[str]) -> str | None:
        """Return why another process, meanwhile, could not restore this input by this network."""
        if current.path not in self._from_others:
            return None
        other = self.earlier(current.path)
        if other is None:
            return None
        same = _is_same_job(other, current, identities)
        return other.error if same else None

    def is_done(self, current: ManifestRecord, identities: Collection[str]) -> bool:
        """Return whether this input was restored by a network of these identities, and its result
        is still what was written."""
        earlier = self.earlier(current.path)
        return (
            earlier is not None
            and earlier.error is None
            and earlier.sha256 is not None
            and _is_same_job(earlier, current, identities)
            and self._is_intact(earlier)
        )

    def add(self, record: ManifestRecord) -> None:
        """Append a line; `RunError` where it cannot be written."""
        self._from_others.discard(record.path)
        self._index.append(asdict(record))

    def remove_stale(self, outputs: Mapping[str, str], options: str) -> list[str]:
        """Remove results that inputs had under other names than in `outputs`; return those.

        Kept are results with other `options` (another format), files that are not as they were
        written, and what is now another input's result.
        """
        current = set(outputs.values())
        stale = [
            record
            for name, output in outputs.items()
            if (record := self.earlier(name)) is not None
            and record.output != output
            and record.output not in current
            and record.options == options
            and record.output_sha256 is not None
            and self._is_intact(record)
        ]
        for record in stale:
            (self._folder / record.output).unlink(missing_ok=True)
        return [record.output for record in stale]

    def _is_intact_file(self, record: ManifestRecord) -> bool:
        """Return whether a result has the size and the hash that it was written with."""
        path = self._folder / record.output
        try:
            size = path.stat().st_size
            if not path.is_file() or size == 0:
                return False
            if record.output_sha256 is None:
                return True
            return size == record.output_size and file_hash(path) == record.output_sha256
        except OSError:
            return False


def compact_manifest(path: Path) -> None:
    """Rewrite a manifest without superseded lines; only while no other process adds any."""
    index = ManifestIndex([JsonLines(path)])
    if not index.is_compact:
        JsonLines(path).rewrite(index.last_lines())


def _is_same_job(
    earlier: ManifestRecord, current: ManifestRecord, identities: Collection[str]
) -> bool:
    """Return whether two records are of the same input, network, options and result."""
    return (
        earlier.network in identities
        and (earlier.output, earlier.options) == (current.output, current.options)
        and _is_same_input(earlier, current)
    )


def _is_same_input(earlier: ManifestRecord, current: ManifestRecord) -> bool:
    """Return whether two records are of the same bytes; an object is not read for that."""
    if current.sha256 is None and current.version is not None:
        return earlier.version == current.version
    return earlier.sha256 == current.sha256


def read_record(line: Mapping[str, Any]) -> ManifestRecord | None:
    """Read a line; None for a line of another program."""
    names = {field.name for field in fields(ManifestRecord)}
    try:
        # lines of earlier versions lack fields that have defaults
        return from_stored(ManifestRecord, {k: line[k] for k in names & line.keys()}, "a line")
    except UsageError:
        return None
