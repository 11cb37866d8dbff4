"""Text files that list pairs: an input and its target on every line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from thinlens.errors import UsageError
from thinlens.images.formats import SUFFIXES
from thinlens.images.reading import image_size
from thinlens.tasks.pairs import PairFiles, name_of
from thinlens.tasks.side_words import is_clean_name, is_degraded_name

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst")
"""Ends of the names of files that may list pairs."""

SEPARATORS = ("\t", ",", ";")
"""What separates the two paths of a line; white space where a line has none of these."""

LARGEST_LIST = 64 << 20
"""The largest list that is read: 500,000 pairs of long names."""


def read_pair_list(path: Path, scale: int) -> list[PairFiles]:
    """Read the pairs of a list: `INPUT TARGET` on every line, relative to the list's folder.

    Empty lines and those that begin with # are skipped. Columns are read the other way round where
    the first file of every pair is the larger one by `scale`, or all names say so. A `UsageError`
    names the first line that is no pair of existing images.
    """
    rows = _rows(path)
    if not rows:
        raise UsageError(f"{path} lists no pairs: wanted INPUT TARGET on every line")
    for number, files in rows:
        if len(files) != 2:
            raise UsageError(
                f"line {number} of {path} names {len(files)} files: wanted INPUT TARGET, with a "
                "tab or a comma between names that hold spaces"
            )
        for file in files:
            if not file.is_file() or file.suffix.lower() not in SUFFIXES:
                raise UsageError(f"line {number} of {path}: {file} is no image")
    both = [(files[0], files[1]) for _, files in rows]
    if _targets_first(both, scale):
        both = [(second, first) for first, second in both]
    root = path.parent
    return [
        PairFiles(name_of(x, root) if x.is_relative_to(root) else x.stem, x, y) for x, y in both
    ]


def find_pair_list(folder: Path, split_words: Sequence[str]) -> Path | None:
    """Return the list of pairs in a folder; of several the one whose name has a word of the split.

    Files that list something else are ignored; several that fit are a `UsageError`.
    """
    if not folder.is_dir():
        return None
    candidates = sorted(x for x in folder.iterdir() if x.suffix.lower() in LIST_SUFFIXES)
    lists = [path for path in candidates if path.is_file() and _begins_with_a_pair(path)]
    chosen = [path for path in lists if any(word in path.stem.lower() for word in split_words)]
    if len(chosen or lists) > 1:
        names = ", ".join(path.name for path in chosen or lists)
        raise UsageError(f"{folder} holds several lists of pairs ({names}): wanted --data with one")
    return next(iter(chosen or lists), None)


def _begins_with_a_pair(path: Path) -> bool:
    try:
        rows = _rows(path, most=1)
    except UsageError:
        return False
    return bool(rows) and len(rows[0][1]) == 2 and all(file.is_file() for file in rows[0][1])


def _rows(path: Path, most: int | None = None) -> list[tuple[int, list[Path]]]:
    """Return the number and the files of every line."""
    try:
        if path.stat().st_size > LARGEST_LIST:
            raise UsageError(
                f"{path} is larger than {LARGEST_LIST >> 20} MiB: wanted a list of pairs"
            )
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"cannot read {path} as a list of pairs: {error}") from error
    rows: list[tuple[int, list[Path]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        separator = next((x for x in SEPARATORS if x in line), None)
        words = [word.strip().strip('"') for word in line.split(separator)]
        rows.append((number, [path.parent / word for word in words if word]))
        if len(rows) == most:
            break
    return rows


def _targets_first(pairs: Sequence[tuple[Path, Path]], scale: int) -> bool:
    """Return whether the first column holds the targets, by sizes or else by names."""
    if scale > 1:
        first, second = (image_size(path) for path in pairs[0])
        return first > second
    return all(
        any(map(is_clean_name, _parts(x)))
        and any(map(is_degraded_name, _parts(y)))
        and not any(map(is_degraded_name, _parts(x)))
        for x, y in pairs
    )


def _parts(path: Path) -> list[str]:
    """Return the names that may tell inputs from targets: of the file and of its folder."""
    return [re.sub(r"\d+$", "", path.stem), path.parent.name]
