"""Row readers: an image from top to bottom, a few rows at a time.

Pillow decodes whole images and needs up to 7 bytes a pixel meanwhile. pyvips streams: only the rows
in use are in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from thinlens.errors import UsageError

MIN_STREAMED_PIXELS = 4_000_000
"""Pixels from which an image is streamed if its file allows it."""


class RowReader(Protocol):
    """An image that is read from top to bottom."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        ...

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return `[C, bottom - top, W]`; neither bound may be less than at the last call."""
        ...

    def reopen(self) -> RowReader:
        """Return a reader of the same image that begins at its top."""
        ...


class InMemoryRowReader:
    """The rows of an image that is in memory."""

    def __init__(self, image: Tensor) -> None:
        self._image = image

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self._image.shape
        return channels, height, width

    def rows(self, top: int, bottom: int) -> Tensor:
        return self._image[:, top:bottom]

    def reopen(self) -> RowReader:
        return self


class StreamingRowReader:
    """The rows of a file, uint8, decoded on demand and released after use."""

    def __init__(self, path: Path) -> None:
        self._path, self._vips = path, vips()
        try:
            image = self._vips.Image.new_from_file(str(path), access="sequential", fail=True)
            self._region = self._vips.Region.new(image)
        except self._vips.Error as error:
            raise UsageError(f"cannot read {path}: {_reason(error)}") from error
        self._shape = (image.bands, image.height, image.width)
        self._top = 0
        self._buffer = torch.empty(image.bands, 0, image.width, dtype=torch.uint8)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    def rows(self, top: int, bottom: int) -> Tensor:
        channels, _, width = self._shape
        first = self._top + self._buffer.shape[1]
        blocks = [self._buffer[:, top - self._top :]]
        if bottom > first:
            try:
                content = self._region.fetch(0, first, width, bottom - first)
            except self._vips.Error as error:
                raise UsageError(f"cannot read {self._path}: {_reason(error)}") from error
            pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            blocks.append(pixels.view(bottom - first, width, channels).permute(2, 0, 1))
        self._buffer, self._top = torch.cat(blocks, dim=1), top
        return self._buffer[:, : bottom - top]

    def reopen(self) -> RowReader:
        return StreamingRowReader(self._path)


def vips() -> Any:
    """Return the library pyvips; `UsageError` where it is not installed."""
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise UsageError("reading this image needs pyvips: pip install pyvips[binary]") from error
    pyvips.cache_set_max(0)  # otherwise a file that has changed is not read again
    return pyvips


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
