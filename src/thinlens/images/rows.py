"""How is an image read a few rows at a time?

Pillow decodes whole images, so that one takes up to 7 bytes a pixel while it is opened. With the
extra `large` (pyvips, which streams) only the rows at hand are held.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.reading import MOST_PIXELS, is_plain, read_image

STREAM_FROM = 4_000_000
"""Pixels from which an image is streamed if pyvips is there."""


class Rows(Protocol):
    """An image that is read from top to bottom."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        ...

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return `[C, bottom - top, W]`; neither bound may be less than at the last call."""
        ...

    def again(self) -> Rows:
        """Return the same image, to be read from its top once more."""
        ...


class WholeRows:
    """The rows of an image that is in memory."""

    def __init__(self, image: Tensor) -> None:
        self._image = image

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self._image.shape
        return channels, height, width

    def rows(self, top: int, bottom: int) -> Tensor:
        return self._image[:, top:bottom]

    def again(self) -> Rows:
        return self


class StreamedRows:
    """The rows of a file, uint8, decoded when they are wanted and forgotten afterwards."""

    def __init__(self, path: Path, channels: int | None) -> None:
        self._path, self._channels, self._vips = path, channels, _vips()
        try:
            image = self._vips.Image.new_from_file(str(path), access="sequential", fail=True)
            if channels == 3 and image.bands == 1:
                image = image.bandjoin([image, image])
            self._region = self._vips.Region.new(image)
        except self._vips.Error as error:
            raise UsageError(f"cannot read {path}: {_reason(error)}") from error
        self._shape = (image.bands, image.height, image.width)
        self._top = 0
        self._held = torch.empty(image.bands, 0, image.width, dtype=torch.uint8)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    def rows(self, top: int, bottom: int) -> Tensor:
        channels, _, width = self._shape
        first = self._top + self._held.shape[1]
        parts = [self._held[:, top - self._top :]]
        if bottom > first:
            try:
                fresh = self._region.fetch(0, first, width, bottom - first)
            except self._vips.Error as error:
                raise UsageError(f"cannot read {self._path}: {_reason(error)}") from error
            pixels = torch.frombuffer(bytearray(fresh), dtype=torch.uint8)
            parts.append(pixels.view(bottom - first, width, channels).permute(2, 0, 1))
        self._held, self._top = torch.cat(parts, dim=1), top
        return self._held[:, : bottom - top]

    def again(self) -> Rows:
        return StreamedRows(self._path, self._channels)


def open_rows(path: Path, *, channels: int | None = 3, max_pixels: int = MOST_PIXELS) -> Rows:
    """Open an image as `read_image` reads it: by rows if it is large, plain and pyvips is there."""
    large = find_spec("pyvips") is not None and is_plain(path, STREAM_FROM, max_pixels)
    if large and channels != 1:
        return StreamedRows(path, channels)
    return WholeRows(read_image(path, channels=channels, max_pixels=max_pixels))


def _vips() -> Any:
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise UsageError("reading by rows wants pyvips: pip install 'thinlens[large]'") from error
    return pyvips


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
