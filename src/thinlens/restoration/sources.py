"""The inputs of a command: images from files, folders and patterns, and names for their results."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from thinlens.errors import UsageError
from thinlens.images.folders import list_folder
from thinlens.images.formats import SUFFIXES
from thinlens.restoration.manifest import MANIFESTS
from thinlens.restoration.object_sources import collect_objects
from thinlens.restoration.object_stores import object_url


class Sources(Protocol):
    """The images of a command by their names, and the files that are none."""

    @property
    def names(self) -> Collection[str]:
        """Relative to the common root."""
        ...

    @property
    def not_taken(self) -> tuple[str, ...]:
        """Names of the files that have no image's suffix."""
        ...

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Names of folders that cannot be listed, and why."""
        ...

    def select(self, names: Collection[str]) -> Sources:
        """Return these images alone."""
        ...

    def version(self, name: str) -> str | None:
        """Return what changes with an image and is known without reading it, if anything is."""
        ...

    def fetch(self, name: str) -> Path:
        """Return a file of an image; `UsageError` where there is none."""
        ...

    def release(self, name: str) -> None:
        """Remove what `fetch` left on the disk."""
        ...

    def check_results(self, out: Path, outputs: Mapping[str, str]) -> None:
        """Raise `UsageError` if a result would overwrite an input."""
        ...

    def close(self) -> None:
        """Remove what is left on the disk."""
        ...


@dataclass(frozen=True)
class Inputs:
    """Images in files, by their names."""

    paths: Mapping[str, Path]
    """By the path relative to the common root, the image."""
    not_taken: tuple[str, ...] = ()
    """Relative paths of the files in the folders that have no image's suffix."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Relative paths of folders that cannot be listed, and why."""

    @property
    def names(self) -> Collection[str]:
        """Relative paths."""
        return self.paths.keys()

    def select(self, names: Collection[str]) -> Inputs:
        """Return these images alone."""
        return replace(self, paths={name: self.paths[name] for name in names})

    def version(self, name: str) -> str | None:
        """Return None: files are read and hashed."""
        return None

    def fetch(self, name: str) -> Path:
        """Return the file of an image."""
        return self.paths[name]

    def release(self, name: str) -> None:
        """Do nothing: no file is a copy."""

    def check_results(self, out: Path, outputs: Mapping[str, str]) -> None:
        """Raise `UsageError` if a result would overwrite an input."""
        originals = {_location(path) for path in self.paths.values()}
        for output in outputs.values():
            if _location(out / output) in originals:
                raise UsageError(f"{out / output} is an input: wanted another --out")

    def close(self) -> None:
        """Do nothing: no file is a copy."""


def sources_of(sources: Sequence[Path], out: Path) -> Sources:
    """Return the images that `sources` stand for, or that are below a URL of an object store."""
    if any(object_url(source) for source in sources):
        return collect_objects(sources, out)
    return collect_inputs(sources, out)


def collect_inputs(sources: Sequence[Path], out: Path) -> Inputs:
    """Return the images that `sources` stand for: files, folders, and patterns such as `in/*.jpg`.

    Names are relative to the folder if it is the only source, else to what all have in common.
    Results of an earlier run, below an `out` that is inside a source, are no inputs. Raises
    `UsageError` where there is nothing to do.
    """
    sources = [path for source in sources for path in _expanded(source)]
    if not sources:
        raise UsageError("no source: wanted an image or a folder of images")
    root = _root(sources)
    if out.resolve() == root.resolve() or any(out.resolve() == s.resolve() for s in sources):
        raise UsageError(f"{out} is the folder of the inputs: wanted another --out")
    images: dict[str, Path] = {}
    others: dict[str, None] = {}
    unreadable: dict[str, str] = {}
    for source in sources:
        if not source.is_dir():
            images[_relative(source, root)] = source
            continue
        listing = list_folder(source)
        # Where `out` is above the source, what is below `out` are not only results.
        results = None if source.resolve().is_relative_to(out.resolve()) else out.resolve()
        images |= {_relative(p, root): p for p in listing.images if not _below(p, results)}
        others |= {_relative(p, root): None for p in listing.others if not _below(p, results)}
        unreadable |= {
            _relative(folder, root): f"this folder cannot be listed: {reason}"
            for folder, reason in listing.unreadable.items()
        }
    if not images:
        suffixes = " ".join(sorted(SUFFIXES))
        raise UsageError(
            f"{', '.join(map(str, sources))} holds no images beside those in {out}: wanted files "
            f"that end in {suffixes}"
        )
    not_taken = tuple(name for name in others if not PurePosixPath(name).match(MANIFESTS))
    return Inputs(images, not_taken, unreadable)


def png_suffix(name: str) -> str:
    """Return the ending of a PNG."""
    return ".png"


def result_names(names: Sequence[str], suffix: Callable[[str], str] = png_suffix) -> dict[str, str]:
    """Map each input's relative path to its result's, whose ending is `suffix` of the name.

    Where that would give two inputs one result (a.jpg and a.png, also on disks that do not
    distinguish A from a), the ending is added to their whole names instead.

    >>> result_names(["a.jpg", "b.jpg", "b.png"])
    {'a.jpg': 'a.png', 'b.jpg': 'b.jpg.png', 'b.png': 'b.png.png'}
    """
    longer = {name: name + suffix(name) for name in names}
    outputs = {name: str(PurePosixPath(name).with_suffix(suffix(name))) for name in names}
    while True:
        counts = Counter(output.casefold() for output in outputs.values())
        clashing = [
            name
            for name, output in outputs.items()
            if counts[output.casefold()] > 1 and output != longer[name]
        ]
        if not clashing:
            return outputs
        outputs.update({name: longer[name] for name in clashing})


def _expanded(source: Path) -> list[Path]:
    """Return what a source stands for: itself, or the files that a pattern matches."""
    if os.path.lexists(source):
        return [source]
    pattern = str(source)
    # Path.glob takes no absolute patterns
    matches = glob.glob(pattern, recursive=True) if glob.has_magic(pattern) else []  # noqa: PTH207
    if not matches:
        raise UsageError(f"{source} does not exist: wanted an image or a folder of images")
    return [Path(match) for match in sorted(matches)]


def _root(sources: Sequence[Path]) -> Path:
    """Return the folder that names are relative to."""
    if len(sources) == 1 and sources[0].is_dir():
        return sources[0]
    try:
        common = os.path.commonpath([source.parent.absolute() for source in sources])
    except ValueError as error:
        raise UsageError("the sources are on several drives: wanted one") from error
    return Path(common)


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _below(path: Path, folder: Path | None) -> bool:
    return folder is not None and _location(path).is_relative_to(folder)


def _location(path: Path) -> Path:
    """Return where a file or link stands, without following it: it may point to itself."""
    return path.parent.resolve() / path.name
