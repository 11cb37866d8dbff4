"""Restoration of a folder of images: resumable, each result written whole or not at all."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from thinlens.errors import RunError, UsageError
from thinlens.images.decoding import DecodeOptions, open_photograph
from thinlens.images.formats import FORMATS, format_of, load_plugin
from thinlens.images.opening import check_regular
from thinlens.images.writing import write_content
from thinlens.progress import Progress
from thinlens.restoration.manifest import ManifestRecord, ResultManifest, file_hash
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.options import SAME_FORMAT, RestoreOptions
from thinlens.restoration.photographs import PhotographRestorer
from thinlens.restoration.seam_error import SeamError
from thinlens.restoration.sources import (
    check_no_input_is_a_result,
    collect_inputs,
    result_names,
)
from thinlens.restoration.tiled import Tiler
from thinlens.signals import deferred_signals
from thinlens.tasks.task import Task


@dataclass(frozen=True)
class RestoreResult:
    """Counts and failures of a restored folder."""

    done: int
    skipped: int
    """Images that the same network restored before, from the same bytes."""
    failures: Mapping[str, str]
    """By relative path, the reason why an image has no result."""
    seconds: float
    seam_error: SeamError | None = None
    """Of a chosen margin: measured on the first image that was cut."""
    not_taken: tuple[str, ...] = ()
    """Files in the source folders that have no image's suffix, and folders listed before."""
    removed: tuple[str, ...] = ()
    """Results that earlier runs had under names which inputs no longer have."""
    engine: str = ""
    """What ran the network: native, torch, or mixed; empty where nothing is recorded."""

    def as_json(self) -> dict[str, Any]:
        """Return what `restore --json` prints; `seams` where a margin was chosen and used."""
        return {
            "done": self.done,
            "failed": len(self.failures),
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
            **({"engine": self.engine} if self.engine else {}),
            "not_taken": list(self.not_taken),
            "failures": dict(self.failures),
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
    not at all. If `out` names an image file (`is_file_name`), the one source is restored to it,
    without a manifest. Of `options`, tile size, blending and margin apply to plain networks; a
    `Restorer` ignores them. Raises `Interrupted` after Ctrl-C or SIGTERM once the current tile is
    done, `RunError` where nothing can be written, `UsageError` where there is nothing to do.
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
    manifest, identities = ResultManifest(out), restorer.identities()
    removed = manifest.remove_stale(outputs, options.result_fields())
    job = Job(PhotographRestorer(restorer, task.channels, options))
    skipped, failures = 0, {}
    with deferred_signals() as stop:
        for count, (name, path) in enumerate(inputs.paths.items()):
            image_start, output = time.monotonic(), outputs[name]
            record = input_record(name, path, output, identities, options)
            if manifest.is_done(record, identities):
                skipped += 1
            else:
                error = job.restore(path, out / output, stop.check)
                record = replace(record, seconds=round(time.monotonic() - image_start, 3))
                if error:
                    failures[name] = error
                    record = replace(record, error=error)
                else:
                    size, digest = _size_and_hash(out / output)
                    record = replace(record, output_size=size, output_sha256=digest)
                    record = replace(record, **restorer.manifest_fields())
                    if options.picture:
                        error = _picture_error(options.picture, out / output, pictures[output])
                        failures |= {name: error} if error else {}
                manifest.add(record)
            if progress:
                progress(count + 1, len(inputs.paths), {})
            stop.check()
    done = len(inputs.paths) - skipped - len(failures)
    return RestoreResult(
        *(done, skipped, failures, time.monotonic() - start, _seam_error(restorer)),
        inputs.not_taken,
        tuple(removed),
    )


def input_record(
    name: str, path: Path, output: str, identities: Sequence[str], options: RestoreOptions
) -> ManifestRecord:
    """Return the record of an input before it is restored."""
    size, digest = _size_and_hash(path)
    changed = options.result_fields()
    return ManifestRecord(name, size, digest, identities[0], output, seconds=0.0, options=changed)


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
    with deferred_signals() as stop:
        error = job.restore(sources[0], out, stop.check)
    failures = {sources[0].name: error} if error else {}
    seconds = time.monotonic() - start
    return RestoreResult(1 - len(failures), 0, failures, seconds, _seam_error(restorer))


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


@dataclass(frozen=True)
class Job:
    """The restoration of one image file after another."""

    restorer: PhotographRestorer

    def restore(self, path: Path, target: Path, check: Callable[[], None]) -> str | None:
        """Restore one image; return the reason if it cannot be restored, else None."""
        options = self.restorer.options
        decoding = DecodeOptions(options.max_pixels, options.first_frame, srgb=options.strip)
        image_format = options.format_for(path.name)
        try:
            with _image_errors():
                photograph = open_photograph(path, decoding)
                content = self.restorer.content(photograph, image_format, check)
            write_content(target, image_format, replace(content, bands=_guarded(content.bands)))
        except (_NoResultError, UsageError) as error:
            return str(error)
        except RunError as error:
            # A name that is too long concerns this image alone; a full disk concerns all.
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG:
                return str(error)
            raise
        return None


class _NoResultError(Exception):
    """An image cannot be read or restored: the others go on, unlike after a failed write."""


@contextmanager
def _image_errors() -> Iterator[None]:
    try:
        yield
    except (UsageError, RunError) as error:
        raise _NoResultError(str(error)) from error
    except Exception as error:  # whatever the code of a network or a restorer raises
        raise _NoResultError(f"{type(error).__name__}: {error}") from error


def _guarded(bands: Iterable[Tensor]) -> Iterator[Tensor]:
    with _image_errors():
        yield from bands


def _size_and_hash(path: Path) -> tuple[int | None, str | None]:
    """Return a file's size in bytes and its SHA-256, or two None if it cannot be read."""
    try:
        check_regular(path)
        return path.stat().st_size, file_hash(path)
    except (OSError, UsageError):
        return None, None
