"""How is a folder of images restored so that no accident loses or doubles work?"""

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
from thinlens.images.reading import MOST_PIXELS, colour_profile, image_paths
from thinlens.images.rows import open_rows
from thinlens.images.writing import write_rows
from thinlens.restoration.manifest import Manifest, Record, file_hash
from thinlens.restoration.network import Network, Restorer
from thinlens.restoration.tiled import Tiler
from thinlens.signals import deferred_signals
from thinlens.tasks.task import Task

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with (images done, images in all, nothing yet)."""


@dataclass(frozen=True)
class RestoreOptions:
    """How the images are handled."""

    tile: int | None = None
    """Longest side of the tiles that large images are cut into; None: as memory allows."""
    blend: int = 0
    """Input pixels on either side of the borders of tiles over which they fade into another."""
    max_pixels: int = MOST_PIXELS
    """Larger inputs are refused before they are decoded."""
    picture: Callable[[Path, Path], None] | None = None
    """What else is drawn of every image: given the result and where the picture goes."""


@dataclass(frozen=True)
class RestoreResult:
    """What became of the images."""

    done: int
    skipped: int
    """Done before, by the same network from the same bytes."""
    failures: Mapping[str, str]
    """Why each of the others has no result, by relative path."""
    seconds: float

    def as_json(self) -> dict[str, float]:
        """Return what `restore --json` prints."""
        return {
            "done": self.done,
            "failed": len(self.failures),
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
        }


def restore_folder(
    network: Network | Restorer,
    task: Task,
    source: Path,
    out: Path,
    *,
    handling: RestoreOptions | None = None,
    progress: Progress | None = None,
) -> RestoreResult:
    """Restore the images below `source`, or the one that it is, to `out`/<relative path>.png.

    `out`/manifest.jsonl holds a line for each (`Record`); the same call again does what it does
    not hold. An image that cannot be read or restored is noted there and the others go on. Results
    appear whole or not at all. `options` cuts and fades the tiles of a network; what restores
    its own way does not ask. Raises `Interrupted` after Ctrl-C or SIGTERM once the tile at hand
    is done, `RunError` where nothing can be written, `UsageError` where there is nothing to do.
    """
    started = time.monotonic()
    root, paths = _inputs(source, out)
    outputs = result_names([path.relative_to(root).as_posix() for path in paths])
    handling = handling or RestoreOptions()
    pictures = _pictures(outputs.values(), out) if handling.picture else {}
    restorer: Restorer
    if isinstance(network, Restorer):
        restorer = network
    else:
        restorer = Tiler(network, task.channels, tile=handling.tile, blend=handling.blend)
    manifest, identities = Manifest(out), restorer.identities()
    work = _Work(restorer, task, handling.max_pixels)
    skipped, failures = 0, {}
    with deferred_signals() as stop:
        for count, (path, (name, output)) in enumerate(zip(paths, outputs.items(), strict=True)):
            begun = time.monotonic()
            wanted = Record(name, *_contents(path), identities[0], output, seconds=0.0)
            if manifest.holds(wanted, identities):
                skipped += 1
            else:
                error = work.restore(path, out / output, stop.check)
                if error:
                    failures[name] = error
                seconds = round(time.monotonic() - begun, 3)
                told: dict[str, Any] = {} if error else restorer.manifest_fields()
                if handling.picture and not error:
                    handling.picture(out / output, pictures[output])
                manifest.add(replace(wanted, seconds=seconds, error=error, **told))
            if progress:
                progress(count + 1, len(paths), {})
            stop.check()
    done = len(paths) - skipped - len(failures)
    return RestoreResult(done, skipped, failures, time.monotonic() - started)


def result_names(names: Sequence[str]) -> dict[str, str]:
    """Give each input's relative path its result's: the suffix becomes .png.

    Where that would give two inputs one result (a.jpg and a.png, also on disks that do not tell A
    from a), .png is added to their whole names instead.
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
    """Give each result a picture beside it; none may take a result's place."""
    known = set(outputs)
    pictures = {output: str(PurePosixPath(output).with_suffix(".routes.png")) for output in known}
    clashing = known & set(pictures.values())
    if clashing:
        raise UsageError(f"{min(clashing)} is a result: a picture of routes cannot have its name")
    return {output: out / picture for output, picture in pictures.items()}


def _inputs(source: Path, out: Path) -> tuple[Path, list[Path]]:
    """Return the folder that relative paths start from, and what to restore below it."""
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
class _Work:
    """What is done with every image."""

    restorer: Restorer
    task: Task
    max_pixels: int

    def restore(self, path: Path, target: Path, check: Callable[[], None]) -> str | None:
        """Restore one image; return why it was not possible, or None."""
        try:
            with _noticed():
                # Colours survive a grey network, channel by channel; an RGB one sees grey as RGB.
                channels = 3 if self.task.channels == 3 else None
                image = open_rows(path, channels=channels, max_pixels=self.max_pixels)
                profile = colour_profile(path, image.shape[0])
                bands = self.restorer.bands(image, to_uint8, check)
                first = next(bands)
            _, height, width = image.shape
            scale = first.shape[-1] // width
            write_rows(
                target, (len(first), height * scale, width * scale), _all(first, bands), profile
            )
        except _NoResultError as error:
            return str(error)
        return None


class _NoResultError(Exception):
    """An image could not be read or restored: the others go on, unlike after a failed write."""


@contextmanager
def _noticed() -> Iterator[None]:
    try:
        yield
    except (UsageError, RunError) as error:
        raise _NoResultError(str(error)) from error


def _all(first: Tensor, bands: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    with _noticed():
        yield from bands


def _contents(path: Path) -> tuple[int | None, str | None]:
    """Return a file's size in bytes and its SHA-256, or two None if it cannot be read."""
    try:
        return path.stat().st_size, file_hash(path)
    except OSError:
        return None, None
