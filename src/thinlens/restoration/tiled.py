"""How does an image of any size go through a network in the memory of one tile?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from thinlens.errors import RunError, UsageError
from thinlens.images.joining import Joiner
from thinlens.images.pixels import to_float
from thinlens.images.rows import Rows
from thinlens.images.tiles import Tile, Tiling
from thinlens.models.legacy_fingerprint import fingerprints
from thinlens.models.tile_position import Place, placed
from thinlens.restoration.memory import largest_tile
from thinlens.restoration.network import Network, device_of, evaluating
from thinlens.restoration.receptive_field import ReceptiveField, measure_receptive_field

log = logging.getLogger(__name__)

SMALLEST_TILE = 8
"""Cores below this, or below the margin, are not tried."""


class Tiler:
    """A network, what it must see around a tile, and how large tiles may be.

    `channels` are the network's: an RGB image goes through a grey network channel by channel.
    `tile` is the most pixels a core may have along a side; None lets images pass whole while they
    fit and cuts the others as large as memory allows. `blend` is the width of the fading.
    """

    def __init__(
        self, network: Network, channels: int, *, tile: int | None = None, blend: int = 0
    ) -> None:
        if tile is not None and tile < 1:
            raise UsageError(f"--tile {tile}: wanted at least one pixel")
        if blend < 0:
            raise UsageError(f"blend {blend}: wanted a width of 0 or more pixels")
        self._network, self._channels, self._tile, self._blend = network, channels, tile, blend
        self._most: int | None = None
        """Cores up to this went through since larger ones did not fit."""
        self.used: int | None = None
        """The longest side of a core that the last image was cut into at the end; None: whole."""

    @cached_property
    def reach(self) -> ReceptiveField:
        """What tiles of this network promise; measured when it is first asked for."""
        try:
            reach = measure_receptive_field(self._network, self._channels)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise RunError("not even the thinnest strip of an image fits into memory") from error
        if not reach.exact:
            log.warning("%s", reach.sentence())
        return reach

    def identities(self) -> tuple[str, ...]:
        return fingerprints(self._network)

    def account(self) -> dict[str, Any]:
        return {"tile": self.used}

    def bands(
        self,
        image: Rows,
        finish: Callable[[Tensor], Tensor],
        check: Callable[[], None] | None = None,
    ) -> Iterator[Tensor]:
        """Yield an image's result from top to bottom as `[C, rows, W]`, each part `finish`ed.

        `finish` gets float results in [0, 1], tiles or, after fading, rows. `check` is called
        between tiles; what it raises ends the work. A tile that does not fit into memory is halved,
        and so are all after it; where not even the smallest fits, that is a `RunError`, as is NaN
        in a result.
        """
        _, height, width = image.shape
        tiling = self._tiling(image.shape)
        joiner = Joiner(height, width, self._blend)
        for band in tiling.bands(height, width):
            bottom = band[0].core.bottom
            rows = min(t.outer.top for t in band), max(t.outer.bottom for t in band)
            there = image.rows(*rows), rows[0]
            results = self._restored(band, there, (height, width))
            done = joiner.band(bottom, checked(results, (height, width), check), finish)
            if done.shape[1]:
                yield done

    def _tiling(self, shape: tuple[int, int, int]) -> Tiling:
        """Choose how an image of `[C, height, width]` is cut."""
        _, height, width = shape
        edge = self._tile
        if edge is None:
            batch = torch.Size((max(1, shape[0] // self._channels), self._channels, height, width))
            with torch.inference_mode(), evaluating(self._network):
                edge = largest_tile(self._network, batch, lambda: self.reach.margin + self._blend)
        edge = min(edge or max(height, width), self._most or max(height, width))
        self.used = None
        return self._cut(edge, height, width)

    def _cut(self, edge: int, height: int, width: int) -> Tiling:
        """Cut an image evenly into cores of at most `edge` a side."""
        if edge >= max(height, width):
            return Tiling((height, width))
        self.used = edge
        margin = self.reach.margin + self._blend
        # An engine plans each size anew; torch takes all sizes alike.
        full = not isinstance(self._network, nn.Module)
        tiling = Tiling((edge, edge), (margin, margin), self.reach.grid, full)
        return tiling.evenly(height, width)

    def _restored(
        self, band: list[Tile], there: tuple[Tensor, int], size: tuple[int, int]
    ) -> Iterator[tuple[Tile, Tensor]]:
        """Yield every tile of a band, or the smaller ones it had to be cut into, and its result."""
        waiting = self._recut(band, size)
        while waiting:
            tile = waiting[0]
            result = self._tried(tile, there, size)
            if result is None:
                self._shrink(tile)
                waiting = self._recut(waiting, size)
            else:
                waiting = waiting[1:]
                yield tile, result

    def _recut(self, tiles: list[Tile], size: tuple[int, int]) -> list[Tile]:
        """Cut what is larger than is known to fit."""
        most = self._most
        if most is None or all(max(t.core.height, t.core.width) <= most for t in tiles):
            return tiles
        self.used = most
        margin = self.reach.margin + self._blend
        smaller = Tiling((most, most), (margin, margin), self.reach.grid)
        return [piece for tile in tiles for piece in smaller.tiles(*size, within=tile.core)]

    def _shrink(self, tile: Tile) -> None:
        """Note that cores must be smaller than this one."""
        self._most = max(tile.core.height, tile.core.width) // 2
        if self._most < SMALLEST_TILE or self._most < self.reach.margin:
            raise RunError(
                f"a {tile.outer.width}x{tile.outer.height} image does not fit into memory, "
                "and smaller tiles would be all margin: wanted more memory"
            )

    def _tried(self, tile: Tile, there: tuple[Tensor, int], size: tuple[int, int]) -> Tensor | None:
        """Restore one tile's outer box to `[C, H, W]`; None if memory does not suffice."""
        pixels, top = there
        box = tile.outer
        part = pixels[:, box.top - top : box.bottom - top, box.left : box.right]
        try:
            with torch.inference_mode(), evaluating(self._network):
                return self._run(to_float(part) if part.dtype == torch.uint8 else part, tile, size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Outside of the handler the failed tile's tensors are free.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _run(self, image: Tensor, tile: Tile, size: tuple[int, int]) -> Tensor:
        height, width = image.shape[-2:]
        batch = image.reshape(-1, self._channels, height, width).to(device_of(self._network))
        place = Place(tile.outer.top, tile.outer.left, *size)
        whole = (height, width) == size
        with placed([] if whole else [place] * len(batch)):
            large = self._network(batch)
        if large.ndim != batch.ndim:
            raise UsageError(
                "the network answers something else than images: it cannot restore one"
            )
        if not torch.isfinite(large).all():
            raise RunError("the network gave NaN or infinity: its weights may be damaged")
        return large.clamp(0, 1).flatten(0, 1).float().cpu()


def checked(
    results: Iterable[tuple[Tile, Tensor]],
    size: tuple[int, int],
    check: Callable[[], None] | None,
) -> Iterator[tuple[Tile, Tensor]]:
    """Pass tiles of an image of `size` on and call `check` behind each but the last."""
    height, width = size
    for tile, pixels in results:
        yield tile, pixels
        if check and tile.core.bottom * tile.core.right < height * width:
            check()


def out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory does not suffice."""
    # A CPU out of memory is a plain RuntimeError, told apart by its words alone.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate" in str(error)
