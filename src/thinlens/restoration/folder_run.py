"""The images of a collection, one after another: each is claimed, restored, written, recorded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from thinlens.errors import RunError, UsageError
from thinlens.images.photograph import Photograph
from thinlens.progress import Progress
from thinlens.restoration.clipping import counted_clipping
from thinlens.restoration.codecs import Codecs, Timing
from thinlens.restoration.job import FileState, Job, file_state
from thinlens.restoration.manifest import ManifestRecord
from thinlens.restoration.network import Restorer
from thinlens.restoration.options import RestoreOptions
from thinlens.restoration.results import Results
from thinlens.restoration.sources import Sources

MOST_UNWRITTEN = 1
"""Images that are computed and not written yet, at most."""

SHARE_DIGITS = 4
"""Of the share of clipped values."""

POLL_SECONDS = 0.2
"""Between two looks at the images that other processes restore, once there are no others."""


@dataclass(frozen=True)
class _Ahead:
    """An input that was claimed and hashed, and decoded unless it is done."""

    name: str
    record: ManifestRecord | None
    """None where another process has claimed it."""
    path: Path = Path()
    """Its file."""
    is_done: bool = False
    failure: str | None = None
    """Why another process could not restore it."""
    photograph: Photograph | str | None = None
    """What `Job.ahead` returned."""


@dataclass(frozen=True)
class _Written:
    """An image whose result was computed, and is written or will be."""

    record: ManifestRecord
    details: Mapping[str, Any]
    """What the restorer states of it, for the manifest."""
    state: Future[FileState]
    seconds: float
    """Of this thread: those of the network, and of waiting for a writer that is slower."""


@dataclass
class FolderRun:
    """The images of a folder, one after another; each is recorded once it is written."""

    job: Job
    restorer: Restorer
    sources: Sources
    results: Results
    outputs: Mapping[str, str]
    """Names of the results of all inputs that are restored here."""
    progress: Progress
    pictures: Mapping[str, Path] = field(default_factory=dict)
    """Extra pictures, by names of results; empty without."""
    skipped: int = 0
    done: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    clipped: dict[str, float] = field(default_factory=dict)
    _waiting: deque[_Written] = field(default_factory=deque)

    def restore_all(self, check: Callable[[], None]) -> Timing:
        """Restore the images that are not done yet; `check` is called where all is recorded."""
        with Codecs() as codecs:
            names = deque(self.outputs)
            try:
                while names:
                    claimed = self._restore_each(names, codecs, check)
                    self._record(codecs, 0)
                    if names and not claimed:
                        time.sleep(POLL_SECONDS)  # only images of other processes remain
            except BaseException:
                with suppress(RunError):
                    self._record(codecs, 0)
                raise
            return codecs.timing()

    def _restore_each(self, names: deque[str], codecs: Codecs, check: Callable[[], None]) -> bool:
        """Restore images; those that other processes restore now remain in `names`.

        Returns whether any could be claimed.
        """
        busy = list[str]()
        count = len(names)
        ahead = self._read(codecs, names)
        while ahead is not None:
            current = codecs.result(ahead)
            ahead = self._read(codecs, names)
            if current.record is None:
                busy.append(current.name)
            else:
                self._restore(current, current.record, codecs, check)
            check()
        names.extend(busy)
        return len(busy) < count

    @cached_property
    def _identities(self) -> tuple[str, ...]:
        """The restorer's, which hash all weights: images do not change them."""
        return self.restorer.identities()

    def _read(self, codecs: Codecs, names: deque[str]) -> Future[_Ahead] | None:
        """Claim, hash and decode an image ahead, unless it is done; None where there is none."""
        if not names:
            return None
        name = names.popleft()
        identities, manifest = self._identities, self.results.manifest

        def read() -> _Ahead:
            if not self.results.take(name):
                return _Ahead(name, None)
            manifest.refresh()
            options, output = self.job.restorer.options, self.outputs[name]
            version = self.sources.version(name)
            try:
                path = self.sources.fetch(name)
            except UsageError as error:
                record = input_record(name, None, output, identities, options, version)
                return _Ahead(name, record, photograph=str(error))
            record = input_record(name, path, output, identities, options, version)
            is_done = manifest.is_done(record, identities)
            failure = manifest.failure(record, identities)
            if is_done or failure:
                return _Ahead(name, record, path, is_done, failure)
            return _Ahead(name, record, path, photograph=self.job.ahead(path))

        return codecs.read(read)

    def _restore(
        self, ahead: _Ahead, record: ManifestRecord, codecs: Codecs, check: Callable[[], None]
    ) -> None:
        if ahead.is_done or ahead.failure:
            self._release(ahead.name)
            self.skipped += ahead.is_done
            self.failures |= {ahead.name: ahead.failure} if ahead.failure else {}
            self._report()
            return
        start = time.monotonic()
        job = replace(self.job, stored=partial(self.results.stored, record.output))
        target = self.results.target(record.output)
        with counted_clipping() as clipping:
            state = job.start(ahead.path, ahead.photograph, target, codecs, check)
        seconds = round(time.monotonic() - start, 3)
        if clipping.is_notable:
            self.clipped[record.path] = round(clipping.share, SHARE_DIGITS)
            record = replace(record, clipped=self.clipped[record.path])
        self._waiting.append(_Written(record, self.restorer.manifest_fields(), state, seconds))
        # a picture shows what the restorer did last
        self._record(codecs, 0 if self.pictures else MOST_UNWRITTEN)

    def _record(self, codecs: Codecs, most: int) -> None:
        """Add lines to the manifest until at most so many images are not written."""
        while self._waiting and (len(self._waiting) > most or self._waiting[0].state.done()):
            written = self._waiting.popleft()
            state = codecs.result(written.state)
            name = written.record.path
            record = replace(written.record, seconds=written.seconds)
            if state.error:
                self.failures[name] = state.error
                record = replace(record, error=state.error)
            else:
                record = replace(record, output_size=state.size, output_sha256=state.sha256)
                record = replace(record, **written.details)
                self._draw(name, record.output)
            self.done += name not in self.failures
            self.results.record(record)
            self._release(name)
            self._report()

    def _release(self, name: str) -> None:
        self.sources.release(name)
        self.results.release(name)

    def _draw(self, name: str, output: str) -> None:
        picture = self.job.restorer.options.picture
        if picture:
            error = _picture_error(picture, self.results.target(output), self.pictures[output])
            self.failures |= {name: error} if error else {}

    def _report(self) -> None:
        finished = self.done + self.skipped + len(self.failures)
        self.progress(finished, len(self.outputs), {})


def input_record(
    name: str,
    path: Path | None,
    output: str,
    identities: Sequence[str],
    options: RestoreOptions,
    version: str | None = None,
) -> ManifestRecord:
    """Return the record of an input before it is restored; None is a file that is not read."""
    state, changed = file_state(path) if path else FileState(), options.result_fields()
    return ManifestRecord(
        *(name, state.size, state.sha256, identities[0], output),
        seconds=0.0,
        options=changed,
        version=version,
    )


def _picture_error(draw: Callable[[Path, Path], None], result: Path, picture: Path) -> str | None:
    """Draw an extra picture of a result; return the reason if that is not possible."""
    try:
        draw(result, picture)
    except UsageError as error:
        return f"its picture of routes cannot be drawn: {error}"
    return None
