"""How does an interrupted measurement of errors go on where it was?"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from thinlens.errors import RunError
from thinlens.files import atomic_write


class ErrorNotes:
    """A file with a line for every image that was measured, under one that says by what.

    Lines of another measurement, and one that a kill left half written, are forgotten.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        head = {"measured": identity}
        lines = _read(path)
        kept = lines[1:] if lines[:1] == [head] else []
        self._known = {line["image"]: line["errors"] for line in kept if "image" in line}
        with atomic_write(path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in [head, *kept]).encode())

    def get(self, image: str) -> Tensor | None:
        """Return what was noted of an image: log10 errors `[T, n]`."""
        found = self._known.get(image)
        return None if found is None else torch.tensor(found, dtype=torch.float32)

    def add(self, image: str, errors: Tensor) -> None:
        """Append an image's errors and hand them to the system."""
        line = json.dumps({"image": image, "errors": errors.tolist()}) + "\n"
        try:
            with self._path.open("a") as file:
                file.write(line)
        except OSError as error:
            raise RunError(f"cannot write {self._path}: {error.strerror}") from error


def _read(path: Path) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            continue
    return lines
