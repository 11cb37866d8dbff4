"""Objects of a store (S3 and what else fsspec opens) as files: listed, fetched, stored whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinlens.errors import RunError, UsageError

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}([^/].*)")
"""`s3://bucket/x`, and `s3:/bucket/x`, which `Path` makes of it. A drive has one letter."""

_VERSIONS = ("ETag", "etag", "md5Hash")
"""What stores call the hash of an object in their listings."""


def object_url(path: str | Path) -> str | None:
    """Return the URL that a path stands for; None for a file or folder.

    >>> object_url(Path("s3://bucket/photos")), object_url("photos")
    ('s3://bucket/photos', None)
    """
    match = _URL.fullmatch(str(path))
    return f"{match[1]}://{match[2]}" if match else None


@dataclass(frozen=True)
class ObjectState:
    """What a listing says of an object."""

    size: int
    version: str | None
    """The store's hash of it; None where it has none."""
    changed: str
    """When it was stored, as text that sorts by time within a listing."""


class ObjectFolder:
    """The objects below a URL. Raises `UsageError` where no library opens it."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        protocol = url.partition("://")[0]
        try:
            # other processes store meanwhile: listings are read again
            self._files, path = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            extra = "pip install 'thinlens[objects]'" if protocol == "s3" else str(error)
            raise UsageError(f"{url} needs another package: {extra}") from error
        except ValueError as error:
            raise UsageError(f"{url}: {error}") from error
        self._root: str = path.rstrip("/")

    def __reduce__(self) -> tuple[type[ObjectFolder], tuple[str]]:
        return ObjectFolder, (self.url,)

    def list(self) -> dict[str, ObjectState]:
        """Return the objects by their names, which are relative; for the URL of one, that alone."""
        with _failures(f"cannot list {self.url}", RunError):
            entries: dict[str, Any] = self._files.find(self._root, detail=True)
        root = self._root
        if root in entries and len(entries) == 1:
            root = root.rpartition("/")[0]
        return {
            path[len(root) + 1 :]: ObjectState(
                int(entry["size"]),
                next((str(entry[key]).strip('"') for key in _VERSIONS if entry.get(key)), None),
                str(entry.get("LastModified") or entry.get("created") or ""),
            )
            for path, entry in sorted(entries.items())
            if entry["type"] == "file" and path.startswith(f"{root}/")
        }

    def fetch(self, name: str, target: Path) -> None:
        """Download an object to a file; `UsageError` where it cannot be read."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with _failures(f"cannot read {self.url}/{name}", UsageError):
            self._files.get_file(self._path(name), str(target))

    def store(self, source: Path, name: str) -> None:
        """Upload a file; the object changes whole. `RunError` where it cannot be written."""
        with _failures(f"cannot write {self.url}/{name}", RunError):
            self._files.put_file(str(source), self._path(name))

    def _path(self, name: str) -> str:
        is_object = self._root.endswith(f"/{name}") and self._files.isfile(self._root)
        return self._root if is_object else f"{self._root}/{name}"


@contextmanager
def _failures(sentence: str, kind: type[UsageError] | type[RunError]) -> Iterator[None]:
    """Turn whatever a store's library raises into one sentence."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise kind(f"{sentence}: {reason}") from error
