"""Restoration of a folder of images: resumable, each result written whole or not at all."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from thinlens.errors import RunError, UsageError
from thinlens.file_locks import FolderLock
from thinlens.images.formats import FORMATS, format_of, load_plugin
from thinlens.images.photograph import Photograph
from thinlens.progress import Progress, no_progress
from thinlens.restoration.claims import Claims
from thinlens.restoration.clipping import counted_clipping
from thinlens.restoration.codecs import Codecs, Timing
from thinlens.restoration.job import FileState, Job, file_state
from thinlens.restoration.manifest import ManifestRecord, ResultManifest
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.options import SAME_FORMAT, RestoreOptions
from thinlens.restoration.photographs import PhotographRestorer
from thinlens.restoration.seam_error import SeamError
from thinlens.restoration.shards import Shard
from thinlens.restoration.sources import (
    check_no_input_is_a_result,
    collect_inputs,
    result_names,
)
from thinlens.restoration.tiled import Tiler
from thinlens.signals import deferred_signals
from thinlens.tasks.task import Task
from thinlens.temporary_files import sweep_leftovers

MOST_UNWRITTEN = 1
"""Images that are computed and not written yet, at most."""

SHARE_DIGITS = 4
"""Of the share of clipped values."""

SHARE_SECONDS = 20.0
"""For which a restoration waits for a process that has its folder alone: another that starts, or a
training run, which is then named in the error."""

POLL_SECONDS = 0.2
"""Between two looks at the images that other processes restore, once there are no others."""


@dataclass(frozen=True)
class RestoreResult:
    """Counts and failures of a restored folder."""

    done: int
    """Images that this call restored."""
    skipped: int
    """Images that the same network restored before, or another process meanwhile, from the same
    bytes."""
    failures: Mapping[str, str]
    """By relative path, the reason why an image has no result."""
    seconds: float
    """Of the whole call."""
    seam_error: SeamError | None = None
    """Of a chosen margin: measured on the first image that was cut."""
    not_taken: tuple[str, ...] = ()
    """Files in the source folders that have no image's suffix, and folders listed before."""
    removed: tuple[str, ...] = ()
    """Results that earlier runs had under names which inputs no longer have."""
    engine: str = ""
    """What ran the network: native, torch, or mixed; empty where nothing is recorded."""
    timing: Timing | None = None
    """How well reading, computing and writing overlapped; None where nothing was restored."""
    clipped: Mapping[str, float] = field(default_factory=dict)
    """By relative path, the share of values far outside of [0, 1], of results where it is notable
    (`restoration.clipping`)."""
    precision: Mapping[str, Any] = field(default_factory=dict)
    """The engine's precision and what was measured of it; empty for float32."""

    def as_json(self) -> dict[str, Any]:
        """Return what `restore --json` prints; `seams` where a margin was chosen and used."""
        return {
            "done": self.done,
            "failed": len(self.failures),
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
            **({"engine": self.engine} if self.engine else {}),
            **(self.timing.as_json() if self.timing else {}),
            **({"precision": dict(self.precision)} if self.precision else {}),
            "not_taken": list(self.not_taken),
            "failures": dict(self.failures),
            "clipped": dict(self.clipped),
            **({"removed": list(self.removed)} if self.removed else {}),
            **({"seams": self.seam_error.as_json()} if self.seam_error else {}),
        }


def restore_folder(
    network: Network | Restorer,
    task: Task,
    source: Path | Sequence[Path],
    out: Path,
    *,
    options: RestoreOptions | None = None,
    progress: Progress | None = None,
) -> RestoreResult:
    """Restore images, or those below folders, to `out`/<relative path>.png.

    `out`/manifest.jsonl holds a line for each (`ManifestRecord`); the same call again restores only
    the images that it does not hold, or whose results are no longer what was written. An image
    that cannot be read or restored is listed in it and the others go on. Results appear whole or
    not at all. Several processes may restore to one folder: each image is restored by one of them,
    and the images of a killed one by the others. If `out` names an image file (`is_file_name`), the
    one source is restored to it, without a manifest. Of `options`, tile size, blending and margin
    apply to plain networks; a `Restorer` ignores them. Raises `Interrupted` after Ctrl-C or SIGTERM
    once the current tile is done, `RunError` where nothing can be written, `UsageError` where there
    is nothing to do.
    """
    start = time.monotonic()
    sources = [source] if isinstance(source, Path) else list(source)
    options = options or RestoreOptions()
    if options.format != SAME_FORMAT:
        load_plugin(FORMATS[options.format])
    restorer = options.restorer(network, task.channels)
    if is_file_name(out):
        return _restore_file(restorer, task, sources, out, options)
    inputs = collect_inputs(sources, out)
    outputs = result_names(list(inputs.paths), options.suffix_for)
    check_no_input_is_a_result(inputs, out, outputs)
    pictures = _pictures(outputs.values(), out) if options.picture else {}
    removed, shard = list[str](), Shard.parse(options.shard)
    with FolderLock(out, shares=True, wait=SHARE_SECONDS) as lock:
        manifest, identities = ResultManifest(out, shard.manifest), restorer.identities()
        if lock.is_exclusive:  # while others restore to the folder, one of them has done this
            removed = manifest.remove_stale(outputs, options.result_fields())
            manifest.compact()
        lock.share()
        for folder in {out, *((out / output).parent for output in outputs.values())}:
            sweep_leftovers(folder)
        job = Job(PhotographRestorer(restorer, task.channels, options))
        names = _Names(shard.select(inputs.paths), outputs, out, pictures)
        claims = Claims(out)
        run = _FolderRun(
            job, restorer, manifest, claims, identities, names, progress or no_progress
        )
        with claims, deferred_signals() as stop:
            timing = run.restore_all(stop.check)
        sweep_leftovers(out)  # claims of processes that were killed meanwhile
    failures = {**inputs.unreadable, **run.failures}
    return RestoreResult(
        *(run.done, run.skipped, failures, time.monotonic() - start, _seam_error(restorer)),
        inputs.not_taken,
        tuple(removed),
        timing=timing if run.done else None,
        clipped=run.clipped,
    )


@dataclass(frozen=True)
class _Names:
    """Files by the names of inputs."""

    inputs: Mapping[str, Path]
    outputs: Mapping[str, str]
    """Names of results, below the folder `out`."""
    out: Path
    pictures: Mapping[str, Path]
    """Extra pictures, by names of results; empty without."""


@dataclass(frozen=True)
class _Ahead:
    """An input that was claimed and hashed, and decoded unless it is done."""

    name: str
    record: ManifestRecord | None
    """None where another process has claimed it."""
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
class _FolderRun:
    """The images of a folder, one after another; each is recorded once it is written."""

    job: Job
    restorer: Restorer
    manifest: ResultManifest
    claims: Claims
    identities: tuple[str, ...]
    names: _Names
    progress: Progress
    skipped: int = 0
    done: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    clipped: dict[str, float] = field(default_factory=dict)
    _waiting: deque[_Written] = field(default_factory=deque)

    def restore_all(self, check: Callable[[], None]) -> Timing:
        """Restore the images that are not done yet; `check` is called where all is recorded."""
        with Codecs() as codecs:
            names = deque(self.names.inputs)
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

    def _read(self, codecs: Codecs, names: deque[str]) -> Future[_Ahead] | None:
        """Claim, hash and decode an image ahead, unless it is done; None where there is none."""
        if not names:
            return None
        name = names.popleft()
        path, output = self.names.inputs[name], self.names.outputs[name]

        def read() -> _Ahead:
            if not self.claims.take(name):
                return _Ahead(name, None)
            self.manifest.refresh()
            options = self.job.restorer.options
            record = input_record(name, path, output, self.identities, options)
            is_done = self.manifest.is_done(record, self.identities)
            failure = self.manifest.failure(record, self.identities)
            if is_done or failure:
                return _Ahead(name, record, is_done, failure)
            return _Ahead(name, record, photograph=self.job.ahead(path))

        return codecs.read(read)

    def _restore(
        self, ahead: _Ahead, record: ManifestRecord, codecs: Codecs, check: Callable[[], None]
    ) -> None:
        if ahead.is_done or ahead.failure:
            self.claims.release(ahead.name)
            self.skipped += ahead.is_done
            self.failures |= {ahead.name: ahead.failure} if ahead.failure else {}
            self._report()
            return
        start = time.monotonic()
        path, target = self.names.inputs[record.path], self.names.out / record.output
        with counted_clipping() as clipping:
            state = self.job.start(path, ahead.photograph, target, codecs, check)
        seconds = round(time.monotonic() - start, 3)
        if clipping.is_notable:
            self.clipped[record.path] = round(clipping.share, SHARE_DIGITS)
            record = replace(record, clipped=self.clipped[record.path])
        self._waiting.append(_Written(record, self.restorer.manifest_fields(), state, seconds))
        # a picture shows what the restorer did last
        self._record(codecs, 0 if self.names.pictures else MOST_UNWRITTEN)

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
            self.manifest.add(record)
            self.claims.release(name)
            self._report()

    def _draw(self, name: str, output: str) -> None:
        picture = self.job.restorer.options.picture
        if picture:
            error = _picture_error(picture, self.names.out / output, self.names.pictures[output])
            self.failures |= {name: error} if error else {}

    def _report(self) -> None:
        finished = self.done + self.skipped + len(self.failures)
        self.progress(finished, len(self.names.inputs), {})


def input_record(
    name: str, path: Path, output: str, identities: Sequence[str], options: RestoreOptions
) -> ManifestRecord:
    """Return the record of an input before it is restored."""
    state, changed = file_state(path), options.result_fields()
    return ManifestRecord(
        *(name, state.size, state.sha256, identities[0], output), seconds=0.0, options=changed
    )


def is_file_name(out: Path) -> bool:
    """Return whether `--out` names an image file and not a folder.

    >>> is_file_name(Path("large.jpg")), is_file_name(Path("large"))
    (True, False)
    """
    return format_of(out) is not None and not out.is_dir()


def _restore_file(
    restorer: Restorer, task: Task, sources: Sequence[Path], out: Path, options: RestoreOptions
) -> RestoreResult:
    """Restore one image to the file `out`, in the format of its name."""
    start = time.monotonic()
    own = format_of(out)
    if len(sources) != 1 or sources[0].is_dir():
        raise UsageError(f"{out} is the name of one image: wanted a folder for several results")
    if own is None or own.encoder is None:
        raise UsageError(f"{out}: {own.name if own else 'this format'} is not written")
    if options.format not in ("png", SAME_FORMAT, own.name):
        raise UsageError(f"{out} is no file name of --format {options.format}")
    if not sources[0].exists():
        raise UsageError(f"{sources[0]} does not exist: wanted an image or a folder of images")
    if out.resolve() == sources[0].resolve():
        raise UsageError(f"{out} is the input: wanted another --out")
    if options.picture:
        raise UsageError("--map draws beside results in a folder: wanted a folder as --out")
    named = replace(options, format=own.name)
    job = Job(PhotographRestorer(restorer, task.channels, named))
    with deferred_signals() as stop, Codecs() as codecs:
        photograph = codecs.result(codecs.read(partial(job.ahead, sources[0])))
        with counted_clipping() as clipping:
            written = job.start(sources[0], photograph, out, codecs, stop.check)
        error = codecs.result(written).error
        timing = None if error else codecs.timing()
    failures = {sources[0].name: error} if error else {}
    seconds, seams = time.monotonic() - start, _seam_error(restorer)
    shares = {sources[0].name: round(clipping.share, SHARE_DIGITS)} if clipping.is_notable else {}
    return RestoreResult(
        1 - len(failures), 0, failures, seconds, seams, timing=timing, clipped=shares
    )


def _seam_error(restorer: Restorer) -> SeamError | None:
    return restorer.seam_error if isinstance(restorer, Tiler) else None


def _pictures(outputs: Iterable[str], out: Path) -> dict[str, Path]:
    """Map each result to the path of its picture; raise if that is a result too."""
    results = set(outputs)
    pictures = {output: str(PurePosixPath(output).with_suffix(".routes.png")) for output in results}
    clashing = results & set(pictures.values())
    if clashing:
        raise UsageError(f"{min(clashing)} is a result: a picture of routes cannot have its name")
    return {output: out / picture for output, picture in pictures.items()}


def _picture_error(draw: Callable[[Path, Path], None], result: Path, picture: Path) -> str | None:
    """Draw an extra picture of a result; return the reason if that is not possible."""
    try:
        draw(result, picture)
    except UsageError as error:
        return f"its picture of routes cannot be drawn: {error}"
    return None
