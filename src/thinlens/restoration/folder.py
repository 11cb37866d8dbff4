"""Restoration of a folder of images: resumable, each result written whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from thinlens.errors import UsageError
from thinlens.images.formats import FORMATS, format_of, load_plugin
from thinlens.progress import Progress, no_progress
from thinlens.restoration.clipping import counted_clipping
from thinlens.restoration.codecs import Codecs, Timing
from thinlens.restoration.folder_run import SHARE_DIGITS, FolderRun, input_record
from thinlens.restoration.job import Job
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.object_stores import object_url
from thinlens.restoration.options import SAME_FORMAT, RestoreOptions
from thinlens.restoration.photographs import PhotographRestorer
from thinlens.restoration.ray_workers import ChunkResult, RayCluster, RayRun
from thinlens.restoration.results import Results, refuse_pictures, results_at
from thinlens.restoration.seam_error import SeamError
from thinlens.restoration.shards import Shard
from thinlens.restoration.sources import Sources, result_names, sources_of
from thinlens.restoration.tiled import Tiler
from thinlens.signals import deferred_signals
from thinlens.tasks.task import Task


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
    kernels: str = ""
    """How the native engine's kernels were selected: heuristic, measured or tuned; empty where
    torch alone ran."""
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
            **({"engine": self.engine, "kernels": self.kernels or None} if self.engine else {}),
            **(self.timing.as_json() if self.timing else {}),
            **({"precision": dict(self.precision)} if self.precision else {}),
            "not_taken": list(self.not_taken),
            "failures": dict(self.failures),
            "clipped": dict(self.clipped),
            **({"removed": list(self.removed)} if self.removed else {}),
            **({"seams": self.seam_error.as_json()} if self.seam_error else {}),
        }


def restore_folder(  # noqa: PLR0913 - keyword-only, each has one meaning
    network: Network | Restorer,
    task: Task,
    source: Path | Sequence[Path],
    out: Path,
    *,
    options: RestoreOptions | None = None,
    cluster: RayCluster | None = None,
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
    refuse_pictures(out, options.picture)
    if cluster is not None:  # whose processes have other working folders
        sources = [path if object_url(path) else path.absolute() for path in sources]
        out = out if object_url(out) else out.absolute()
        if options.picture:
            raise UsageError("--map draws in one process: wanted no --ray")
    inputs = sources_of(sources, out)
    outputs = result_names(list(inputs.names), options.suffix_for)
    inputs.check_results(out, outputs)
    shard = Shard.parse(options.shard)
    job = Job(PhotographRestorer(restorer, task.channels, options))
    own = shard.select(outputs)
    pictures = _pictures(own.values(), out) if options.picture else {}
    with closing(inputs), results_at(out, shard.manifest) as results:
        removed = results.prepare(outputs, options.result_fields())
        pending = pending_outputs(inputs, own, results, restorer.identities(), options)
        inputs = inputs.select(pending)
        report = progress_after(progress or no_progress, len(own) - len(pending), len(own))
        run: FolderRun | ChunkResult
        timing: Timing | None = None
        with closing(inputs), deferred_signals() as stop:
            if cluster is None:
                run = FolderRun(job, restorer, inputs, results, pending, report, pictures)
                timing = run.restore_all(stop.check)
            else:
                ray_run = RayRun(cluster, inputs, results, pending, out, options, report)
                run = ray_run.restore_all(stop.check)
    failures = {**inputs.unreadable, **run.failures}
    skipped = run.skipped + len(own) - len(pending)
    return RestoreResult(
        *(run.done, skipped, failures, time.monotonic() - start, _seam_error(restorer)),
        inputs.not_taken,
        tuple(removed),
        timing=timing if run.done else None,
        clipped=run.clipped,
    )


def pending_outputs(
    sources: Sources,
    outputs: Mapping[str, str],
    results: Results,
    identities: Sequence[str],
    options: RestoreOptions,
) -> dict[str, str]:
    """Return the results that are not known to be done without reading their inputs."""
    pending = {}
    for name, output in outputs.items():
        version = sources.version(name)
        record = version and input_record(name, None, output, identities, options, version)
        if not record or not results.manifest.is_done(record, identities):
            pending[name] = output
    return pending


def progress_after(progress: Progress, earlier: int, total: int) -> Progress:
    """Return what reports the progress of the rest of `total` images."""
    return lambda done, _, values: progress(earlier + done, total, values)


def is_file_name(out: Path) -> bool:
    """Return whether `--out` names an image file and not a folder.

    >>> is_file_name(Path("large.jpg")), is_file_name(Path("large"))
    (True, False)
    """
    return format_of(out) is not None and not out.is_dir() and object_url(out) is None


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
