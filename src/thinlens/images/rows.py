"""How is an image read and written a few rows at a time?

Pillow decodes and encodes whole images: with it an image takes 3 bytes a pixel as it comes in and
7 as it goes out. With the extra `large` (pyvips, which streams) only the rows at hand are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from thinlens.errors import RunError, UsageError
from thinlens.files import atomic_write
from thinlens.images.reading import MOST_PIXELS, is_plain, read_image
from thinlens.images.writing import write_png

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


class StreamedRows:
    """The rows of a file, uint8, decoded when they are wanted and forgotten afterwards."""

    def __init__(self, path: Path, channels: int | None) -> None:
        self._path, self._vips = path, _vips()
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


def open_rows(path: Path, *, channels: int | None = 3, max_pixels: int = MOST_PIXELS) -> Rows:
    """Open an image as `read_image` reads it: by rows if it is large, plain and pyvips is there."""
    large = find_spec("pyvips") is not None and is_plain(path, STREAM_FROM, max_pixels)
    if large and channels != 1:
        return StreamedRows(path, channels)
    return WholeRows(read_image(path, channels=channels, max_pixels=max_pixels))


def write_rows(
    path: Path, shape: tuple[int, int, int], bands: Iterable[Tensor], profile: bytes | None = None
) -> None:
    """Write uint8 bands `[C, rows, W]` of an image of `shape` as PNG, whole or not at all.

    By rows if it is large and pyvips is there. What `bands` raises comes through, and nothing is
    written then.
    """
    if find_spec("pyvips") is None or shape[1] * shape[2] < STREAM_FROM:
        image = torch.empty(shape, dtype=torch.uint8)
        top = 0
        for band in bands:
            image[:, top : top + band.shape[1]] = band
            top += band.shape[1]
        write_png(path, image, profile)
        return
    with atomic_write(path) as file:
        _stream(file, path, _Pulled(shape, iter(bands)), profile)


class _Pulled:
    """Bands as the bytes of a PPM or PGM file, which pyvips takes as it goes on."""

    def __init__(self, shape: tuple[int, int, int], bands: Iterator[Tensor]) -> None:
        kind = "P6" if shape[0] == 3 else "P5"
        self._ready = memoryview(f"{kind}\n{shape[2]} {shape[1]}\n255\n".encode())
        self._bands = bands
        self.error: BaseException | None = None

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end; an exception is kept for `_stream` to raise."""
        try:
            while not self._ready:
                band = next(self._bands, None)
                if band is None:
                    return b""
                plain = band.permute(1, 2, 0).contiguous().cpu().numpy()
                self._ready = memoryview(plain).cast("B")
        except BaseException as error:  # pyvips would print it and go on
            self.error = error
            return b""
        taken, self._ready = self._ready[:size], self._ready[size:]
        return bytes(taken)


def _stream(file: BinaryIO, path: Path, pulled: _Pulled, profile: bytes | None) -> None:
    vips = _vips()
    source = vips.SourceCustom()
    source.on_read(pulled.read)
    failed: list[OSError] = []
    target = vips.TargetCustom()
    target.on_write(_writer(file, failed))
    try:
        image = vips.Image.new_from_source(source, "", access="sequential", fail=True)
        if profile is not None:
            image = image.copy()
            image.set_type(vips.GValue.blob_type, "icc-profile-data", profile)
        image.write_to_target(target, ".png")
    except vips.Error as error:
        if pulled.error is None and not failed:
            raise RunError(f"cannot write {path}: {_reason(error)}") from error
    if pulled.error is not None:
        raise pulled.error
    if failed:
        raise failed[0]


def _writer(file: BinaryIO, failed: list[OSError]) -> Callable[[bytes], int]:
    def write(chunk: bytes) -> int:
        try:
            return file.write(chunk)
        except OSError as error:  # pyvips would print it and go on
            failed.append(error)
            return -1

    return write


def _vips() -> Any:
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise UsageError(
            "reading and writing by rows wants pyvips: pip install 'thinlens[large]'"
        ) from error
    return pyvips


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
