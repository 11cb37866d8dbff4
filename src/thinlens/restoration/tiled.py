"""Tiled inference: restore an image of any size in the memory of one tile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.engine.compiled import Compiled
from thinlens.errors import RunError, UsageError
from thinlens.images.pixels import to_float
from thinlens.images.rows import InMemoryRowReader, RowReader
from thinlens.images.stitching import TileStitcher
from thinlens.images.tiles import Tile, Tiling
from thinlens.models.legacy_fingerprint import fingerprints
from thinlens.models.running import evaluating
from thinlens.models.tile_position import TilePosition
from thinlens.restoration.failures import out_of_memory
from thinlens.restoration.field_cache import cached_field
from thinlens.restoration.free_memory import return_large_blocks
from thinlens.restoration.memory import DEFAULT_BUDGET, largest_tile, runs_in_bands
from thinlens.restoration.memory_budget import MemoryBudget
from thinlens.restoration.network import (
    Network,
    Restorer,
    TileTooLargeError,
    run_bands,
    run_tiles,
)
from thinlens.restoration.receptive_field import (
    ReceptiveField,
    measure_chosen_margin,
    measure_receptive_field,
)
from thinlens.restoration.seam_error import SeamError, core_of, seam_corners, wider_margin

log = logging.getLogger(__name__)

SMALLEST_TILE = 8
"""Pixels along a side of the smallest core that is tried when memory is short; cores smaller than
the margin are not tried either."""


class Tiler:
    """Runs one network on tiles: a `Restorer`.

    `channels` are the network's: an RGB image goes through a grey network channel by channel.
    `tile` is the longest side of a core in pixels; by default images stay whole while they fit
    into memory, and others are cut into tiles as large as memory allows. `blend` is the width in
    pixels over which neighbouring tiles are blended. `margin` are the pixels around a core, by
    default those with which tiles equal the whole image; the error of a smaller one is measured.
    `memory` is what tiles and bands may take, by default a share of what is free.
    """

    def __init__(
        self,
        network: Network,
        channels: int,
        *,
        tile: int | None = None,
        blend: int = 0,
        margin: int | None = None,
        memory: MemoryBudget = DEFAULT_BUDGET,
    ) -> None:
        if tile is not None and tile < 1:
            raise UsageError(f"--tile {tile}: wanted at least one pixel")
        if blend < 0:
            raise UsageError(f"blend {blend}: wanted a width of 0 or more pixels")
        if margin is not None and margin < 0:
            raise UsageError(f"--margin {margin}: wanted 0 or more pixels")
        if memory.limit is not None:
            return_large_blocks()
        self._chosen_margin, self._memory = margin, memory
        self._network, self._channels, self._tile, self._blend = network, channels, tile, blend
        self._limit: int | None = None
        """Longest side of cores after memory ran out; None: it has not."""
        self._bands_fit = True
        """Whether memory did not run out for bands of a whole image."""
        self.used: int | None = None
        """Longest side of the cores of the last image; None: it was not cut."""
        self.seam_error: SeamError | None = None
        """Of a chosen margin, measured on the first image that is cut."""

    @cached_property
    def receptive_field(self) -> ReceptiveField:
        """The margin that tiles of this network need, or the chosen one; measured once for each
        network (`field_cache`)."""
        chosen = self._chosen_margin
        try:
            field = cached_field(self._network, self._channels, chosen, self._measured_field)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise RunError("not even the thinnest strip of an image fits into memory") from error
        if chosen is None and not field.exact:
            log.warning("%s", field.sentence())
        return field

    def _measured_field(self) -> ReceptiveField:
        if self._chosen_margin is not None:
            return measure_chosen_margin(self._network, self._channels, self._chosen_margin)
        return measure_receptive_field(self._network, self._channels)

    def identities(self) -> tuple[str, ...]:
        names, margin = fingerprints(self._network), self._chosen_margin
        return names if margin is None else tuple(f"{name}-margin-{margin}" for name in names)

    def manifest_fields(self) -> dict[str, Any]:
        return {"tile": self.used, "margin": self._chosen_margin if self.used else None}

    def bands(
        self,
        image: RowReader,
        finish: Callable[[Tensor], Tensor],
        check: Callable[[], None] | None = None,
    ) -> Iterator[Tensor]:
        """Yield an image's result from top to bottom as `[C, rows, W]`, each part `finish`ed.

        `finish` gets float results in [0, 1], tiles or, after blending, rows. `check` is called
        between tiles; what it raises ends the work. A tile that does not fit into memory is halved,
        and so are all after it; where not even the smallest fits, that is a `RunError`, as is NaN
        in a result.
        """
        channels, height, width = image.shape
        if channels % self._channels:
            raise UsageError(f"an image of {channels} channels: the network takes {self._channels}")
        if self._runs_in_bands(image.shape):
            yield from self._whole_bands(image, finish, check)
            if self._bands_fit:
                return
            image = image.reopen()  # its rows were read
        tiling = self._tiling(image.shape)
        if self._chosen_margin is not None and self.used and self.seam_error is None:
            self.seam_error = self._measure_seam(tiling, image)
        stitcher = TileStitcher(height, width, self._blend)
        for band in tiling.tile_rows(height, width):
            bottom = band[0].core.bottom
            top = min(t.outer.top for t in band)
            rows = image.rows(top, max(t.outer.bottom for t in band))
            results = self._restored(band, (rows, top), (height, width))
            done = stitcher.stitch_row(bottom, checked(results, (height, width), check), finish)
            if done.shape[1]:
                yield done

    def _runs_in_bands(self, shape: tuple[int, int, int]) -> bool:
        """Whether an image of `[C, height, width]` runs whole by bands of rows: without tiles."""
        chosen = self._tile is not None or self._limit is not None or not self._bands_fit
        channels, height, width = shape
        batch = torch.Size((channels // self._channels, self._channels, height, width))
        return not chosen and runs_in_bands(self._network, batch, self._memory)

    def _whole_bands(
        self,
        image: RowReader,
        finish: Callable[[Tensor], Tensor],
        check: Callable[[], None] | None,
    ) -> Iterator[Tensor]:
        """Yield the bands of a whole image, which equal those of no tile at all.

        Where memory runs out before the first, nothing is yielded and `_bands_fit` becomes false.
        """
        self.used = None
        pixels = image.rows(0, image.shape[1])
        whole = to_float(pixels) if pixels.dtype == torch.uint8 else pixels
        if not isinstance(self._network, Compiled):
            raise TypeError("only an engine runs by bands")
        bands = run_bands(self._network, whole[None])
        try:
            first = next(bands)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self._bands_fit = False
            log.warning("memory ran out for an image of %dx%d: cutting it", *whole.shape[:0:-1])
            return
        for index, band in enumerate(chain([first], bands)):
            if index and check:
                check()
            yield finish(band[0])

    def _tiling(self, shape: tuple[int, int, int]) -> Tiling:
        """Choose how an image of `[C, height, width]` is cut."""
        _, height, width = shape
        edge = self._tile
        if edge is None:
            batch = torch.Size((max(1, shape[0] // self._channels), self._channels, height, width))
            with torch.inference_mode(), evaluating(self._network):
                edge = largest_tile(self._network, batch, self._margin, self._memory)
        edge = min(edge or max(height, width), self._limit or max(height, width))
        self.used = None
        return self._cut(edge, height, width)

    def _margin(self) -> int:
        """Return the pixels around a core: the receptive radius and the width of blending."""
        return self.receptive_field.margin + self._blend

    def _cut(self, edge: int, height: int, width: int) -> Tiling:
        """Cut an image evenly into cores of at most `edge` a side."""
        if edge >= max(height, width):
            return Tiling((height, width))
        self.used = edge
        margin = self._margin()
        # An engine compiles a plan for each size; torch runs any size alike.
        full = not isinstance(self._network, nn.Module)
        field = self.receptive_field
        if full and field.chosen is None and field.radius != field.margin:
            # An effective radius is measured at one place of the grid, and no core that is on the
            # grid has more around it than the margin.
            margin += field.grid // 2
        tiling = Tiling((edge, edge), (margin, margin), field.grid, full)
        return tiling.balanced(height, width)

    def _measure_seam(self, tiling: Tiling, image: RowReader) -> SeamError | None:
        """Compare a corner of the middle tile with that of a wider margin; None without memory."""
        _, height, width = image.shape
        narrow, wide = seam_corners(tiling, height, width)
        top, bottom = wide.outer.top, wide.outer.bottom
        rows = (image.reopen().rows(top, bottom), top)
        try:
            results = [
                core_of(self._run(tile, rows, (height, width)), tile) for tile in (narrow, wide)
            ]
        except TileTooLargeError:
            return None
        difference = (results[0] - results[1]).abs() * 255
        noise, margin = self.receptive_field.error * 255, self.receptive_field.margin
        wider = wider_margin(margin)
        return SeamError(margin, wider, noise, float(difference.max()), float(difference.mean()))

    def _restored(
        self, band: list[Tile], rows: tuple[Tensor, int], size: tuple[int, int]
    ) -> Iterator[tuple[Tile, Tensor]]:
        """Yield the tiles of a band, cut smaller where memory ran out, and their results."""
        waiting = self._recut(band, size)
        while waiting:
            tile = waiting[0]
            try:
                result = self._run(tile, rows, size)
            except TileTooLargeError:
                self._shrink(tile)
                waiting = self._recut(waiting, size)
            else:
                waiting = waiting[1:]
                yield tile, result

    def _recut(self, tiles: list[Tile], size: tuple[int, int]) -> list[Tile]:
        """Cut the tiles that exceed the limit of memory."""
        limit = self._limit
        if limit is None or all(max(t.core.height, t.core.width) <= limit for t in tiles):
            return tiles
        self.used = limit
        margin = self._margin()
        smaller = Tiling((limit, limit), (margin, margin), self.receptive_field.grid)
        return [piece for tile in tiles for piece in smaller.tiles(*size, within=tile.core)]

    def _shrink(self, tile: Tile) -> None:
        """Limit cores to half of the size of this one, which did not fit into memory."""
        self._limit = max(tile.core.height, tile.core.width) // 2
        if self._limit < SMALLEST_TILE or self._limit < self.receptive_field.margin:
            raise RunError(
                f"a {tile.outer.width}x{tile.outer.height} image does not fit into memory, "
                "and smaller tiles would be all margin: wanted more memory"
            )

    def _run(self, tile: Tile, rows: tuple[Tensor, int], size: tuple[int, int]) -> Tensor:
        """Restore one tile's outer box to `[C, H, W]`."""
        pixels, top = rows
        box = tile.outer
        crop = pixels[:, box.top - top : box.bottom - top, box.left : box.right]
        image = to_float(crop) if crop.dtype == torch.uint8 else crop
        batch = image.reshape(-1, self._channels, box.height, box.width)
        whole = (box.height, box.width) == size
        positions = [] if whole else [TilePosition(box.top, box.left, *size)] * len(batch)
        return run_tiles(self._network, batch, positions).flatten(0, 1)


def checked(
    results: Iterable[tuple[Tile, Tensor]],
    size: tuple[int, int],
    check: Callable[[], None] | None,
) -> Iterator[tuple[Tile, Tensor]]:
    """Pass on the tiles of an image of `size`; call `check` after each except the last."""
    height, width = size
    for tile, pixels in results:
        yield tile, pixels
        if check and tile.core.bottom * tile.core.right < height * width:
            check()


def as_restorer(
    network: Network | Restorer,
    channels: int,
    *,
    tile: int | None = None,
    blend: int = 0,
    margin: int | None = None,
    memory: MemoryBudget = DEFAULT_BUDGET,
) -> Restorer:
    """Return what restores images of any size: a `Restorer` itself, a network in tiles."""
    if isinstance(network, Restorer):
        return network
    return Tiler(network, channels, tile=tile, blend=blend, margin=margin, memory=memory)


def restore_image(
    network: Network | Restorer,
    image: Tensor,
    channels: int | None = None,
    *,
    tile: int | None = None,
    blend: int = 0,
    margin: int | None = None,
) -> Tensor:
    """Restore `[C, h, w]`, float in [0, 1] or uint8, to float32 `[C, H, W]` in [0, 1], on the CPU.

    `channels` are the network's, by default the image's: an RGB image goes through a grey network
    channel by channel. A module runs in evaluation mode on its own device, and its mode is restored
    afterwards, and gets images of its own type, at a size that it accepts (`sizes`). `tile`,
    `blend` and `margin` cut large images as `Tiler` does. An image that the network cannot restore,
    or that does not fit into memory, is a `UsageError` or a `RunError`, as is a result with NaN.

    >>> restore_image(torch.nn.Identity(), torch.rand(3, 8, 9), tile=4).shape
    torch.Size([3, 8, 9])
    """
    image = _checked_image(image)
    restorer = as_restorer(network, channels or len(image), tile=tile, blend=blend, margin=margin)
    return torch.cat(list(restorer.bands(InMemoryRowReader(image), torch.Tensor.contiguous)), dim=1)


def _checked_image(image: Tensor) -> Tensor:
    """Return an image `[C, h, w]` as float32; raise for what is no image."""
    if not isinstance(image, Tensor):
        raise UsageError(
            f"an image of type {type(image).__name__}: wanted a tensor [C, h, w]; of a NumPy array "
            "[h, w, C] that is torch.from_numpy(image).permute(2, 0, 1)"
        )
    if image.ndim != 3 or not image.numel():
        raise UsageError(
            f"an image of shape {tuple(image.shape)}: wanted [C, h, w], none of them 0"
        )
    if image.dtype == torch.uint8:
        return to_float(image)
    if not image.is_floating_point():
        raise UsageError(f"an image of {image.dtype}: wanted floats in [0, 1], or uint8")
    return image.float()
