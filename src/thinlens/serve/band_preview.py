"""Preview of an image that is being restored: some of the rows and columns of its bands."""

from __future__ import annotations

import io
import threading

import torch
from torch import Tensor

from thinlens.images.encoders.content import Content
from thinlens.images.formats import FORMATS
from thinlens.images.pixels import to_uint8

PREVIEW_SIDE = 640
"""Longest side of a preview in pixels, about."""


class BandPreview:
    """Keeps every n-th row and column of the bands of an image of `shape`: channels, height, width.

    One thread adds bands while others read.

    >>> preview = BandPreview((3, 1600, 800))
    >>> preview.add(torch.zeros(3, 100, 800, dtype=torch.uint8))
    >>> preview.size, preview.rows, preview.share
    ((534, 267), 34, 0.0625)
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        channels, self._height, width = shape
        self._step = max(1, -(-max(self._height, width) // PREVIEW_SIDE))
        self.size = (-(-self._height // self._step), -(-width // self._step))
        """Height and width."""
        colours = 1 if channels < 3 else 3
        self._image = torch.zeros(colours, *self.size, dtype=torch.uint8)
        self._top = 0
        self._lock = threading.Lock()
        self.rows = 0
        """Rows of the preview, from the top, that are restored."""

    @property
    def share(self) -> float:
        """The part of the image's rows that is restored."""
        return self._top / self._height

    def add(self, band: Tensor) -> None:
        """Add the next rows `[C, rows, W]`, uint8 or float in [0, 1]; transparency is not shown."""
        bottom = self._top + band.shape[1]
        stop = -(-bottom // self._step)
        first = self.rows * self._step - self._top
        rows = band[: len(self._image), first :: self._step, :: self._step]
        with self._lock:
            self._image[:, self.rows : stop] = rows if rows.dtype == torch.uint8 else to_uint8(rows)
            self.rows, self._top = stop, bottom

    def png(self, start: int) -> bytes | None:
        """Return the restored rows from `start` on as a PNG; None where there are no more."""
        with self._lock:
            rows = self._image[:, max(0, start) : self.rows].clone()
        channels, height, width = rows.shape
        encode = FORMATS["png"].encoder
        if not height or encode is None:
            return None
        buffer = io.BytesIO()
        encode(buffer, Content((channels, height, width), [rows]))
        return buffer.getvalue()
