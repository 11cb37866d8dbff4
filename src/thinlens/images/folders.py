"""Files below a folder: the images, and what is none; symbolic links are followed, once each."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from thinlens.errors import UsageError
from thinlens.images.formats import SUFFIXES

log = logging.getLogger(__name__)

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
"""Files that an operating system puts into folders; like hidden ones they are not mentioned."""


@dataclass
class FolderListing:
    """What is below a folder, sorted by relative path; hidden files are in neither list."""

    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    """Files without an image's suffix, and links to folders that were listed before."""
    unreadable: dict[Path, str] = field(default_factory=dict)
    """Folders that cannot be listed, and why: there may be images in them."""


def list_folder(folder: Path) -> FolderListing:
    """List the files below a folder. Raises `UsageError` where it is none.

    A folder that several links reach is listed once, under its own path if that is below `folder`,
    so that links in a circle end.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: wanted one that holds images")
    listing, seen = FolderListing(), set[tuple[int, int]]()
    links = [folder]
    while links:
        # Links wait until all folders are listed under their own paths.
        start = links.pop(0)
        if not _first_visit(start, seen):
            listing.others.append(start)
            continue
        links += _list_tree(start, listing, seen)
    if folder in listing.unreadable:
        raise UsageError(f"cannot list {folder}: {listing.unreadable[folder]}")

    def key(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    listing.images.sort(key=key)
    listing.others.sort(key=key)
    return listing


def image_paths(folder: Path) -> list[Path]:
    """List files with an image suffix below `folder`, sorted by relative path, without hidden ones.

    A folder that is missing or has none is a `UsageError`.
    """
    listing = list_folder(folder)
    for path, reason in listing.unreadable.items():
        log.warning("%s: %s, its images are not used", path, reason)
    if not listing.images:
        suffixes = " ".join(sorted(SUFFIXES))
        raise UsageError(f"{folder} holds no images: wanted files that end in {suffixes}")
    return listing.images


def _list_tree(start: Path, listing: FolderListing, seen: set[tuple[int, int]]) -> list[Path]:
    """List a folder and those in it; return the links to folders."""
    links, folders = [], [start]
    while folders:
        current = folders.pop()
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            listing.unreadable[current] = error.strerror or str(error)
            continue
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FILES:
                continue
            if path.suffix.lower() in SUFFIXES:
                listing.images.append(path)
            elif not _is_folder(entry):
                listing.others.append(path)
            if _is_folder(entry) and entry.is_symlink():
                links.append(path)
            elif _is_folder(entry) and _first_visit(path, seen):
                folders.append(path)
    return links


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; links to themselves are none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _first_visit(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Return whether a folder is not among those seen, and add it."""
    try:
        status = folder.stat()
    except OSError:
        return True  # it was removed meanwhile: listing it will say so
    identity = (status.st_dev, status.st_ino)
    new = identity not in seen
    seen.add(identity)
    return new
