"""Claims on images of a folder that several processes restore: each image is restored by one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from thinlens.errors import RunError
from thinlens.file_locks import is_at, try_lock
from thinlens.temporary_files import claim_name


class Claims:
    """The images that this process restores now, each a locked file in the folder of results.

    The locks end with the process, even by kill -9; where a disk has none, every claim succeeds.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptors: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for name in list(self._descriptors):
            self.release(name)

    def take(self, name: str) -> bool:
        """Claim an image; return whether no other process has. Raises `RunError` on a full disk."""
        path = self._folder / claim_name(name)
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            except OSError as error:
                raise RunError(f"cannot write {path}: {error.strerror}") from error
            if try_lock(descriptor) is False:
                os.close(descriptor)
                return False
            if is_at(path, descriptor):
                self._descriptors[name] = descriptor
                return True
            os.close(descriptor)  # its last owner removed it before it was locked

    def release(self, name: str) -> None:
        """End a claim, if there is one, and remove its file."""
        descriptor = self._descriptors.pop(name, None)
        if descriptor is not None:
            (self._folder / claim_name(name)).unlink(missing_ok=True)
            os.close(descriptor)
