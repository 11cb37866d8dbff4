"""Where the results of a command go, with their manifest: a folder, or an object store."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, Self

from thinlens.errors import UsageError
from thinlens.file_locks import FolderLock
from thinlens.restoration.claims import Claims
from thinlens.restoration.manifest import (
    MANIFESTS,
    ManifestRecord,
    ResultManifest,
    compact_manifest,
)
from thinlens.restoration.object_stores import ObjectFolder, ObjectState, object_url
from thinlens.temporary_files import sweep_leftovers

SHARE_SECONDS = 20.0
"""For which a restoration waits for a process that has its folder alone: another that starts, or a
training run, which is then named in the error."""

MANIFEST_LINES = 1000
"""Of an object: objects cannot grow, so the last one is stored again until it has so many."""

STORE_SECONDS = 60.0
"""After which the last lines of a manifest are stored, though they are fewer."""


class Results(Protocol):
    """Results and their manifest, within a `with` block."""

    manifest: ResultManifest

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def prepare(self, outputs: Mapping[str, str], options: str) -> list[str]:
        """Remove what killed processes and earlier names left; return the removed results."""
        ...

    def target(self, output: str) -> Path:
        """Return the file that a result is written to."""
        ...

    def stored(self, output: str) -> None:
        """Pass a result on that was written; `RunError` where that fails."""
        ...

    def take(self, name: str) -> bool:
        """Claim an input; return whether no other process restores it."""
        ...

    def release(self, name: str) -> None:
        """End a claim."""
        ...

    def record(self, record: ManifestRecord) -> None:
        """Add a line to the manifest."""
        ...

    def flush(self) -> None:
        """Make all lines visible to others."""
        ...


def results_at(out: Path, manifest: str, *, is_worker: bool = False) -> Results:
    """Return what writes to a folder or a URL; lines go to the manifest of this name.

    A worker restores what another process has selected and prepared.
    """
    url = object_url(out)
    if url is None:
        return FolderResults(out, manifest, is_worker=is_worker)
    return ObjectResults(url, is_worker=is_worker)


class FolderResults:
    """Results in a folder, which several processes share: each input is claimed by one."""

    manifest: ResultManifest

    def __init__(self, out: Path, manifest: str, *, is_worker: bool = False) -> None:
        self._out, self._name, self._is_worker = out, manifest, is_worker
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            lock = FolderLock(self._out, shares=True, wait=SHARE_SECONDS)
            self._lock = stack.enter_context(lock)
            if self._is_worker:
                lock.share()
            elif lock.is_exclusive:
                compact_manifest(self._out / self._name)
            self.manifest = ResultManifest(self._out, self._name)
            # claims of processes that were killed meanwhile
            stack.callback(sweep_leftovers, self._out)
            self._claims = stack.enter_context(Claims(self._out))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def prepare(self, outputs: Mapping[str, str], options: str) -> list[str]:
        removed = list[str]()
        if self._lock.is_exclusive:  # else one of those that restore to the folder has done this
            removed = self.manifest.remove_stale(outputs, options)
        self._lock.share()
        for folder in {self._out, *((self._out / output).parent for output in outputs.values())}:
            sweep_leftovers(folder)
        return removed

    def target(self, output: str) -> Path:
        return self._out / output

    def stored(self, output: str) -> None:
        pass

    def take(self, name: str) -> bool:
        return self._claims.take(name)

    def release(self, name: str) -> None:
        self._claims.release(name)

    def record(self, record: ManifestRecord) -> None:
        self.manifest.add(record)

    def flush(self) -> None:
        pass


class ObjectResults:
    """Results below a URL. A store has no locks: processes beside each other take other inputs.

    A result is written to a temporary folder and stored whole. Lines are stored every minute and at
    the end, in objects of a thousand; what was lost with a killed process is restored again, to the
    same bytes.
    """

    manifest: ResultManifest

    def __init__(self, url: str, *, is_worker: bool = False) -> None:
        self._folder, self._is_worker = ObjectFolder(url), is_worker
        self._lines = 0
        self._stored = time.monotonic()

    def __enter__(self) -> Self:
        objects = {} if self._is_worker else self._folder.list()
        sizes = {name: state.size for name, state in objects.items()}

        def is_intact(record: ManifestRecord) -> bool:
            return 0 < sizes.get(record.output, 0) == record.output_size

        with ExitStack() as stack:
            place = stack.enter_context(TemporaryDirectory(prefix="thinlens-"))
            self._files, self._manifests = Path(place, "results"), Path(place, "manifests")
            self._manifests.mkdir()
            self._fetch_manifests(objects)
            self._name = _object_name()
            self.manifest = ResultManifest(self._manifests, self._name, is_intact)
            stack.callback(self.flush)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _fetch_manifests(self, objects: Mapping[str, ObjectState]) -> None:
        names = [name for name in objects if Path(name).match(MANIFESTS) and "/" not in name]
        names.sort(key=lambda name: (objects[name].changed, name))
        for number, name in enumerate(names):
            self._folder.fetch(name, self._manifests / name)
            os.utime(self._manifests / name, (number, number))  # the newest counts

    def prepare(self, outputs: Mapping[str, str], options: str) -> list[str]:
        return []

    def target(self, output: str) -> Path:
        return self._files / output

    def stored(self, output: str) -> None:
        path = self.target(output)
        self._folder.store(path, output)
        path.unlink()

    def take(self, name: str) -> bool:
        return True

    def release(self, name: str) -> None:
        pass

    def record(self, record: ManifestRecord) -> None:
        self.manifest.add(record)
        self._lines += 1
        if self._lines >= MANIFEST_LINES:
            self.flush()
            self._name, self._lines = _object_name(), 0
            self.manifest.start_log(self._name)
        elif time.monotonic() - self._stored > STORE_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._lines:
            self._folder.store(self._manifests / self._name, self._name)
        self._stored = time.monotonic()


def refuse_pictures(out: Path, picture: object) -> None:
    """Raise `UsageError` for extra pictures on an object store."""
    if picture is not None and object_url(out) is not None:
        raise UsageError("--map draws over results in a folder: wanted a folder as --out")


def _object_name() -> str:
    """Return the name of a manifest that no other process has, and that sorts by time."""
    return f"manifest-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}.jsonl"
