"""Log of measured tile errors, from which an interrupted measurement is resumed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.files import JsonLines
from thinlens.stored_values import from_stored


@dataclass(frozen=True)
class _Line:
    image: str
    errors: list[list[float]]


class ErrorLog:
    """A JSON-lines file: the key of the measurement, then the errors of each image.

    Lines under another key are discarded.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._log = JsonLines(path)
        head = {"measured": key}
        lines = self._log.read()
        entries = lines[1:] if lines[:1] == [head] else []
        self._errors: dict[str, Tensor] = {}
        for line in entries:
            try:
                measured = from_stored(_Line, line, "a line")
                self._errors[measured.image] = torch.tensor(measured.errors, dtype=torch.float32)
            except (UsageError, ValueError, TypeError):
                continue  # of another program: it is measured again
        self._log.rewrite([head, *entries])

    def get(self, image: str) -> Tensor | None:
        """Return the log10 errors of an image, `[T, n]`, or None if they are not in the log."""
        return self._errors.get(image)

    def add(self, image: str, errors: Tensor) -> None:
        """Append an image's errors; `RunError` where they cannot be written."""
        self._log.append({"image": image, "errors": errors.tolist()})
