"""Restoration of a folder of images: resumable, each result written whole or not at all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from thinlens.errors import RunError, UsageError
from thinlens.images.pixels import to_uint8
from thinlens.images.reading import MAX_PIXELS, colour_profile, image_paths
from thinlens.images.rows import open_rows
from thinlens.images.writing import write_rows
from thinlens.progress import Progress
from thinlens.restoration.manifest import ManifestRecord, ResultManifest, file_hash
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.seam_error import SeamError
from thinlens.restoration.tiled import Tiler, as_restorer
from thinlens.signals import deferred_signals
from thinlens.tasks.task import Task


@dataclass(frozen=True)
class RestoreOptions:
    """Tile size, blending and input limits of `restore_folder`."""

    tile: int | None = None
    """Longest side in pixels of the tiles that images are cut into; None: as memory allows."""
    blend: int = 0
    """Input pixels on either side of the borders of tiles over which they are blended."""
    margin: int | None = None
    """Input pixels around tiles; None: those with which tiles equal the whole image."""
    max_pixels: int = MAX_PIXELS
    """Inputs with more pixels are refused before they are decoded."""
    picture: Callable[[Path, Path], None] | None = None
    """Draws an extra picture of each image: called with the result and the picture's path."""


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

    def as_json(self) -> dict[str, Any]:
        """Return what `restore --json` prints; `seams` where a margin was chosen and used."""
        return {
            "done": self.done,
            "failed": len(self.failures),
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
            **({"seams": self.seam_error.as_json()} if self.seam_error else {}),
        }


def restore_folder(
    network: Network | Restorer,
    task: Task,
    source: Path,
    out: Path,
    *,
    options: RestoreOptions | None = None,
    progress: Progress | None = None,
) -> RestoreResult:
    """Restore the images below `source`, or the one that it is, to `out`/<relative path>.png.

    `out`/manifest.jsonl holds a line for each (`ManifestRecord`); the same call again restores only
    the images that it does not hold. An image that cannot be read or restored is listed in it and
    the others go on. Results appear whole or not at all. Of `options`, tile
    size, blending and margin apply to plain networks; a `Restorer` ignores them. Raises
    `Interrupted` after Ctrl-C or SIGTERM once the current tile is done, `RunError` where nothing
    can be written, `UsageError` where there is nothing to do.
    """
    start = time.monotonic()
    root, paths = _inputs(source, out)
    outputs = result_names([path.relative_to(root).as_posix() for path in paths])
    options = options or RestoreOptions()
    pictures = _pictures(outputs.values(), out) if options.picture else {}
    restorer = as_restorer(
        network, task.channels, tile=options.tile, blend=options.blend, margin=options.margin
    )
    manifest, identities = ResultManifest(out), restorer.identities()
    job = _Job(restorer, task, options.max_pixels)
    skipped, failures = 0, {}
    with deferred_signals() as stop:
        for count, (path, (name, output)) in enumerate(zip(paths, outputs.items(), strict=True)):
            image_start = time.monotonic()
            record = ManifestRecord(name, *_size_and_hash(path), identities[0], output, seconds=0.0)
            if manifest.is_done(record, identities):
                skipped += 1
            else:
                error = job.restore(path, out / output, stop.check)
                record = replace(record, seconds=round(time.monotonic() - image_start, 3))
                if error:
                    failures[name] = error
                    record = replace(record, error=error)
                else:
                    record = replace(record, **restorer.manifest_fields())
                    if options.picture:
                        options.picture(out / output, pictures[output])
                manifest.add(record)
            if progress:
                progress(count + 1, len(paths), {})
            stop.check()
    done = len(paths) - skipped - len(failures)
    seam_error = restorer.seam_error if isinstance(restorer, Tiler) else None
    return RestoreResult(done, skipped, failures, time.monotonic() - start, seam_error)


def result_names(names: Sequence[str]) -> dict[str, str]:
    """Map each input's relative path to its result's: the suffix becomes .png.

    Where that would give two inputs one result (a.jpg and a.png, also on disks that do not
    distinguish A from a), .png is added to their whole names instead.

    >>> result_names(["a.jpg", "b.jpg", "b.png"])
    {'a.jpg': 'a.png', 'b.jpg': 'b.jpg.png', 'b.png': 'b.png.png'}
    """
    outputs = {name: str(PurePosixPath(name).with_suffix(".png")) for name in names}
    while True:
        counts = Counter(output.casefold() for output in outputs.values())
        clashing = [
            name
            for name, output in outputs.items()
            if counts[output.casefold()] > 1 and output != f"{name}.png"
        ]
        if not clashing:
            return outputs
        outputs.update({name: f"{name}.png" for name in clashing})


def _pictures(outputs: Iterable[str], out: Path) -> dict[str, Path]:
    """Map each result to the path of its picture; raise if that is a result too."""
    results = set(outputs)
    pictures = {output: str(PurePosixPath(output).with_suffix(".routes.png")) for output in results}
    clashing = results & set(pictures.values())
    if clashing:
        raise UsageError(f"{min(clashing)} is a result: a picture of routes cannot have its name")
    return {output: out / picture for output, picture in pictures.items()}


def _inputs(source: Path, out: Path) -> tuple[Path, list[Path]]:
    """Return the root of relative paths and the images below `source`."""
    root = source if source.is_dir() else source.parent
    if out.resolve() == root.resolve():
        raise UsageError(f"{out} is the folder of the inputs: wanted another --out")
    if source.is_dir():
        results = out.resolve()
        paths = [p for p in image_paths(source) if not p.resolve().is_relative_to(results)]
        if not paths:
            raise UsageError(f"{source} holds no images beside those in {out}")
        return root, paths
    if not source.exists():
        raise UsageError(f"{source} does not exist: wanted an image or a folder of images")
    return root, [source]


@dataclass(frozen=True)
class _Job:
    """What is common to all images of a folder."""

    restorer: Restorer
    task: Task
    max_pixels: int

    def restore(self, path: Path, target: Path, check: Callable[[], None]) -> str | None:
        """Restore one image; return the reason if it cannot be restored, else None."""
        try:
            with _image_errors():
                # A grey network restores the channels of colour images one by one; an RGB network
                # gets grey images as RGB.
                channels = 3 if self.task.channels == 3 else None
                image = open_rows(path, channels=channels, max_pixels=self.max_pixels)
                profile = colour_profile(path, image.shape[0])
                bands = self.restorer.bands(image, to_uint8, check)
                first = next(bands)
                _check_channels(first)
            _, height, width = image.shape
            scale = first.shape[-1] // width
            write_rows(
                target, (len(first), height * scale, width * scale), _all(first, bands), profile
            )
        except _NoResultError as error:
            return str(error)
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


def _check_channels(result: Tensor) -> None:
    """Raise unless a result `[C, H, W]` can be written."""
    if len(result) not in (1, 3):
        raise UsageError(f"the network returns {len(result)} channels: wanted 1 or 3")


def _all(first: Tensor, bands: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    with _image_errors():
        yield from bands


def _size_and_hash(path: Path) -> tuple[int | None, str | None]:
    """Return a file's size in bytes and its SHA-256, or two None if it cannot be read."""
    try:
        return path.stat().st_size, file_hash(path)
    except OSError:
        return None, None
