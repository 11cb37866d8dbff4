"""Restoration of one photograph: colours and transparency through the network, then the size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.images.encoders.content import Content
from thinlens.images.formats import ImageFormat
from thinlens.images.metadata import Metadata
from thinlens.images.photograph import Photograph
from thinlens.images.pixels import to_float, to_uint8
from thinlens.images.resample import reader_bands, resampled
from thinlens.images.rows import InMemoryRowReader, RowReader
from thinlens.images.transparency import filled, on_white
from thinlens.restoration.network import Restorer
from thinlens.restoration.options import RestoreOptions

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Luma of ITU-R BT.601: how an RGB network's result of a grey image becomes grey again."""

STANDARD_GAMMA = 1 / 2.2
GAMMA_TOLERANCE = 0.01
"""Gammas this close to the standard one are shown alike."""

MAX_PASSES = 6
"""Times that a network may run after itself for a larger size."""

MAX_RESULT_PIXELS = 2**32
"""Of a result of another size than the network's: more is taken for a mistake."""

Check = Callable[[], None]
Finish = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bands:
    """An image from top to bottom."""

    shape: tuple[int, int, int]
    """Channels, height and width."""
    parts: Iterator[Tensor]
    """`[C, rows, W]`, uint8 or float32 in [0, 1]."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[1:]


class RepeatedGrey:
    """A grey image as RGB, for networks that take nothing else: a `RowReader`."""

    def __init__(self, grey: RowReader) -> None:
        self._grey = grey

    @property
    def shape(self) -> tuple[int, int, int]:
        _, height, width = self._grey.shape
        return 3, height, width

    def rows(self, top: int, bottom: int) -> Tensor:
        return self._grey.rows(top, bottom).expand(3, -1, -1)

    def reopen(self) -> RowReader:
        return RepeatedGrey(self._grey.reopen())


@dataclass(frozen=True)
class PhotographRestorer:
    """What is common to all photographs of a command."""

    restorer: Restorer
    channels: int
    """Of the network's input, 1 or 3; colours go through a grey network channel by channel."""
    options: RestoreOptions

    def content(
        self, photograph: Photograph, image_format: ImageFormat, check: Check | None = None
    ) -> Content:
        """Return the result to write in a format; its bands are computed as they are taken.

        Transparency is computed here. The depth is the photograph's or the next that the format
        has. Raises what the network raises.
        """
        colours, alpha = photograph.colours, photograph.alpha
        opacity, transparent = None, False
        depth = next((d for d in image_format.depths if d >= photograph.depth), None)
        depth = depth or image_format.depths[-1]
        if alpha is not None:
            values = _float_rows(colours)
            if self.options.alpha == "flatten" or not image_format.alpha:
                colours = InMemoryRowReader(on_white(values, alpha))
            else:
                colours = InMemoryRowReader(filled(values, alpha))
                # first, so that afterwards the restorer describes the colours
                opacity, transparent = self._opacity(alpha, check), True
        gamma = self._gamma(photograph, image_format)
        plain = depth == 8 and self.options.strength == 1 and self.options.size is None
        direct = plain and not transparent and gamma is None
        bands = self._restored(colours, to_uint8 if direct else Tensor.contiguous, check)
        if gamma is not None:
            bands = replace(bands, parts=(part**gamma for part in bands.parts))
        if transparent and alpha is not None:
            planes = resampled(iter([alpha]), (alpha.shape[1], alpha.shape[2]), bands.size)
            bands = _with_alpha(bands, planes if opacity is None else iter([opacity]))
        channels, height, width = bands.shape
        metadata = photograph.metadata
        if self.options.strip:
            metadata = Metadata()
        metadata = metadata.of_result(width, height, 1 if channels < 3 else 3)
        if gamma is not None:
            metadata = replace(metadata, gamma=None)
        small, quality = self.options.compression == "small", self.options.quality
        return Content(bands.shape, bands.parts, depth, metadata, quality, small)

    def _gamma(self, photograph: Photograph, image_format: ImageFormat) -> float | None:
        """Return the exponent that makes stored values those of the standard gamma; None: 1."""
        gamma = photograph.metadata.gamma
        if gamma is None or abs(gamma - STANDARD_GAMMA) < GAMMA_TOLERANCE:
            return None
        kept = image_format.name == "png" and not self.options.strip
        return None if kept else STANDARD_GAMMA / gamma

    def _opacity(self, alpha: Tensor, check: Check | None) -> Tensor | None:
        """Enlarge alpha `[1, h, w]` by the network; None if its bicubic enlargement serves."""
        if self.options.alpha != "network" or alpha.min() == alpha.max():
            return None
        bands = self._restored(InMemoryRowReader(alpha), Tensor.contiguous, check)
        return torch.cat(list(bands.parts), dim=1)

    def _restored(self, reader: RowReader, finish: Finish, check: Check | None) -> Bands:
        """Run the network, again while the result is too small; blend and resample it."""
        options, (_, height, width) = self.options, reader.shape
        bands = self._run(reader, finish, check)
        target = (
            bands.size if options.result_size is None else options.result_size.of(height, width)
        )
        if target[0] * target[1] > MAX_RESULT_PIXELS:
            raise UsageError(
                f"a result of {target[1]}x{target[0]} has more than {MAX_RESULT_PIXELS} pixels"
            )
        passes = 1
        while bands.size[0] > height and _smaller(bands.size, target) and passes < MAX_PASSES:
            whole = torch.cat(list(bands.parts), dim=1)
            bands = self._run(InMemoryRowReader(whole), finish, check)
            passes += 1
        if options.strength < 1:
            source = resampled(reader_bands(reader.reopen()), (height, width), bands.size)
            bands = replace(bands, parts=_blended(bands.parts, source, options.strength))
        if bands.size != target:
            parts = resampled(bands.parts, bands.size, target, options.resample)
            bands = Bands((bands.shape[0], *target), parts)
        return bands

    def _run(self, reader: RowReader, finish: Finish, check: Check | None) -> Bands:
        """Run the network once. Grey stays grey, whatever its channels are."""
        channels, height, width = reader.shape
        source = RepeatedGrey(reader) if channels < self.channels else reader

        def grey(result: Tensor) -> Tensor:
            return finish(luma_of(result)) if len(result) == 3 else finish(result)

        parts = self.restorer.bands(source, grey if channels == 1 else finish, check)
        first = next(parts)
        if len(first) not in (1, 3):
            raise UsageError(f"the network returns {len(first)} channels: wanted 1 or 3")
        scale = first.shape[-1] // width
        return Bands((len(first), height * scale, width * scale), chain([first], parts))


def luma_of(image: Tensor) -> Tensor:
    """Return float RGB `[3, H, W]` as grey `[1, H, W]`.

    >>> luma_of(torch.full((3, 1, 1), 0.5))
    tensor([[[0.5000]]])
    """
    return (torch.tensor(GREY_WEIGHTS).view(3, 1, 1) * image).sum(0, keepdim=True)


def _float_rows(reader: RowReader) -> Tensor:
    """Return all of an image as float32 `[C, H, W]`."""
    image = reader.rows(0, reader.shape[1])
    return to_float(image) if image.dtype == torch.uint8 else image


def _smaller(size: tuple[int, int], target: tuple[int, int]) -> bool:
    return size[0] < target[0] or size[1] < target[1]


def _blended(
    restored: Iterator[Tensor], source: Iterator[Tensor], weight: float
) -> Iterator[Tensor]:
    for result, plain in _aligned(restored, source):
        yield result * weight + plain * (1 - weight)


def _with_alpha(bands: Bands, opacity: Iterator[Tensor]) -> Bands:
    channels, height, width = bands.shape
    joined = (torch.cat(pair) for pair in _aligned(bands.parts, opacity))
    return Bands((channels + 1, height, width), joined)


def _aligned(first: Iterator[Tensor], second: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pair the bands of two images of one size, cut alike."""
    rest = torch.empty(0)
    for band in first:
        done = 0
        while done < band.shape[1]:
            if not rest.numel():
                rest = next(second)
            count = min(band.shape[1] - done, rest.shape[1])
            yield band[:, done : done + count], rest[:, :count]
            rest, done = rest[:, count:], done + count
