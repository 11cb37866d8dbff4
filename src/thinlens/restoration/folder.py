"""How is a folder of images restored so that no accident loses or doubles work?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from thinlens.errors import RunError, UsageError
from thinlens.images.pixels import to_float, to_uint8
from thinlens.images.reading import MOST_PIXELS, colour_profile, image_paths, read_image
from thinlens.images.writing import write_png
from thinlens.interrupts import deferred_signals
from thinlens.restoration.manifest import Manifest, Record, file_hash, fingerprint
from thinlens.restoration.whole import Network, restore_image
from thinlens.tasks.task import Task

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with (images done, images in all, nothing yet)."""


@dataclass(frozen=True)
class Outcome:
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
    network: Network,
    task: Task,
    source: Path,
    out: Path,
    *,
    max_pixels: int = MOST_PIXELS,
    progress: Progress | None = None,
) -> Outcome:
    """Restore the images below `source`, or the one that it is, to `out`/<relative path>.png.

    `out`/manifest.jsonl holds a line for each (`Record`); the same call again does what it does
    not hold. An image that cannot be read or restored is noted there and the others go on. Results
    appear whole or not at all. Raises `Interrupted` after Ctrl-C or SIGTERM once the image at hand
    is done, `RunError` where nothing can be written, `UsageError` where there is nothing to do.
    """
    started = time.monotonic()
    root, paths = _inputs(source, out)
    outputs = result_names([path.relative_to(root).as_posix() for path in paths])
    manifest, identity = Manifest(out), fingerprint(network)
    skipped, failures = 0, {}
    with deferred_signals() as stop:
        for count, (path, (name, output)) in enumerate(zip(paths, outputs.items(), strict=True)):
            begun = time.monotonic()
            wanted = Record(name, *_contents(path), identity, output, seconds=0.0)
            if manifest.holds(wanted):
                skipped += 1
            else:
                error = _restore_file(network, task, path, out / output, max_pixels)
                if error:
                    failures[name] = error
                seconds = round(time.monotonic() - begun, 3)
                manifest.add(replace(wanted, seconds=seconds, error=error))
            if progress:
                progress(count + 1, len(paths), {})
            stop.check()
    done = len(paths) - skipped - len(failures)
    return Outcome(done, skipped, failures, time.monotonic() - started)


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


def _restore_file(
    network: Network, task: Task, path: Path, target: Path, max_pixels: int
) -> str | None:
    """Restore one image; return why it was not possible, or None."""
    try:
        # Colours survive a grey network, channel by channel; an RGB network sees grey as RGB.
        image = read_image(path, channels=3 if task.channels == 3 else None, max_pixels=max_pixels)
        restored = to_uint8(restore_image(network, to_float(image), task.channels))
        profile = colour_profile(path, len(restored))
    except (UsageError, RunError) as error:
        return str(error)
    write_png(target, restored, profile)
    return None


def _contents(path: Path) -> tuple[int | None, str | None]:
    """Return a file's size in bytes and its SHA-256, or two None if it cannot be read."""
    try:
        return path.stat().st_size, file_hash(path)
    except OSError:
        return None, None
