"""Log of measured tile errors, from which an interrupted measurement is resumed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from thinlens.files import JsonLines


class ErrorLog:
    """A JSON-lines file: the key of the measurement, then the errors of each image.

    Lines under another key are discarded.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._log = JsonLines(path)
        head = {"measured": key}
        lines = self._log.read()
        entries = lines[1:] if lines[:1] == [head] else []
        self._errors = {line["image"]: line["errors"] for line in entries if "image" in line}
        self._log.rewrite([head, *entries])

    def get(self, image: str) -> Tensor | None:
        """Return the log10 errors of an image, `[T, n]`, or None if they are not in the log."""
        errors = self._errors.get(image)
        return None if errors is None else torch.tensor(errors, dtype=torch.float32)

    def add(self, image: str, errors: Tensor) -> None:
        """Append an image's errors; `RunError` where they cannot be written."""
        self._log.append({"image": image, "errors": errors.tolist()})
