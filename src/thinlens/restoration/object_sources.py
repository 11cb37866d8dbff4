"""The inputs of a command on an object store: downloaded ahead, removed once they are restored."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from thinlens.errors import UsageError
from thinlens.images.formats import SUFFIXES
from thinlens.restoration.manifest import MANIFESTS
from thinlens.restoration.object_stores import ObjectFolder, ObjectState, object_url

AHEAD = 4
"""Objects that are downloaded at once, before they are read: a store answers late."""


@dataclass
class ObjectSources:
    """Images below a URL, or one image, by their names; only the next ones are on the disk."""

    folder: ObjectFolder
    images: Mapping[str, ObjectState]
    not_taken: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._scratch: TemporaryDirectory[str] | None = None
        self._pool = ThreadPoolExecutor(AHEAD)
        self._waiting = list(self.images)[::-1]
        self._fetched: dict[str, Future[Path]] = {}

    def __reduce__(self) -> tuple[type[ObjectSources], tuple[object, ...]]:
        return ObjectSources, (self.folder, dict(self.images))

    @property
    def names(self) -> Collection[str]:
        """Relative to the URL."""
        return self.images.keys()

    def select(self, names: Collection[str]) -> ObjectSources:
        """Return these images alone."""
        images = {name: self.images[name] for name in names}
        return ObjectSources(self.folder, images, self.not_taken, self.unreadable)

    def version(self, name: str) -> str | None:
        """Return the store's hash of an image; None where it has none."""
        return self.images[name].version

    def fetch(self, name: str) -> Path:
        """Return a file of an image, downloaded; `UsageError` where it cannot be read."""
        self._submit(name)
        while self._waiting and len(self._fetched) <= AHEAD:
            self._submit(self._waiting.pop())
        return self._fetched[name].result()

    def release(self, name: str) -> None:
        """Remove the file of an image."""
        future = self._fetched.pop(name, None)
        if future is not None and future.exception() is None:
            future.result().unlink(missing_ok=True)

    def check_results(self, out: Path, outputs: Mapping[str, str]) -> None:
        """Raise `UsageError` if a result would overwrite an input."""
        if object_url(out) == self.folder.url:
            raise UsageError(f"{self.folder.url} is the folder of the inputs: wanted another --out")

    def close(self) -> None:
        """Remove all files."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._scratch is not None:
            self._scratch.cleanup()

    def _submit(self, name: str) -> None:
        if name in self._fetched:
            return
        if self._scratch is None:
            self._scratch = TemporaryDirectory(prefix="thinlens-")
        target = Path(self._scratch.name, name)

        def download() -> Path:
            self.folder.fetch(name, target)
            return target

        self._fetched[name] = self._pool.submit(download)


def collect_objects(sources: Sequence[Path], out: Path) -> ObjectSources:
    """Return the images below a URL. Raises `UsageError` where there is nothing to do."""
    url = object_url(sources[0]) or ""
    if len(sources) > 1:
        raise UsageError(f"{url} stands beside other sources: wanted it alone")
    folder, results = ObjectFolder(url), object_url(out)
    objects = folder.list()
    if results and results.startswith(f"{folder.url}/"):
        inside = results[len(folder.url) + 1 :] + "/"
        objects = {name: state for name, state in objects.items() if not name.startswith(inside)}
    visible = [n for n in objects if not any(part.startswith(".") for part in n.split("/"))]
    named = [n for n in visible if PurePosixPath(n).suffix.lower() in SUFFIXES]
    images = {n: objects[n] for n in named if is_relative(n)}
    refused = {
        n: "its name would be a file outside of the folder" for n in named if n not in images
    }
    if not named:
        raise UsageError(
            f"{url} holds no images: wanted objects that end in {' '.join(sorted(SUFFIXES))}"
        )
    others = (name for name in visible if name not in named)
    not_taken = tuple(name for name in others if not PurePosixPath(name).match(MANIFESTS))
    return ObjectSources(folder, images, not_taken, refused)


def is_relative(name: str) -> bool:
    """Whether an object's name is that of a file below any folder.

    Stores take every text for a name: `photos//etc/a.png` is `/etc/a.png` below `photos`.

    >>> is_relative("2026/a.png"), is_relative("/etc/a.png"), is_relative("a/../../b.png")
    (True, False, False)
    """
    forbidden = "\\:\0" if os.name == "nt" else "\0"
    return not {"", ".", ".."} & set(name.split("/")) and not set(forbidden) & set(name)
