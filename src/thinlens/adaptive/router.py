"""Tile router: restore every tile of an image by the candidate that the rule selects for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinlens.adaptive.candidates import candidate_names
from thinlens.adaptive.context import RouterContext
from thinlens.adaptive.cost_model import UNITS
from thinlens.adaptive.estimator import estimate_errors
from thinlens.adaptive.options import ImageBudget, RoutingOptions
from thinlens.adaptive.rule import (
    Floats,
    Indices,
    TileCosts,
    equation_8,
    lagrangian,
    select_candidates,
    select_within_budget,
)
from thinlens.errors import UsageError
from thinlens.images.pixels import to_float
from thinlens.images.rows import RowReader
from thinlens.images.stitching import TileStitcher
from thinlens.images.tiles import Tile, Tiling
from thinlens.models.fingerprint import FINGERPRINT_DIGITS, settings_text
from thinlens.models.legacy_fingerprint import old_repr
from thinlens.models.tile_position import TilePosition
from thinlens.restoration.network import TILE_BATCH, run_tiles
from thinlens.restoration.tiled import checked

HD_PIXELS = 1280 * 720
"""Pixels of the result for which SLS reports multiply-adds."""

SIGNIFICANT_DIGITS = 4
"""Significant digits of an estimated error in the manifest."""


@dataclass(frozen=True, eq=False)
class Routes:
    """The candidates of the tiles of an image, row by row."""

    shape: tuple[int, int]
    """Rows and columns of tiles."""
    size: tuple[int, int]
    """(height, width) of the input."""
    routes: Indices
    """The candidate of every tile."""
    errors: Floats
    """f, the estimated MSE of every candidate `[T, n]`."""
    macs: int
    """Of all tiles with their margins and of the estimator."""


class TileRouter:
    """A `Restorer` that selects a candidate for every tile by equation 8 of SLS or a budget."""

    def __init__(self, context: RouterContext, options: RoutingOptions, blend: int = 0) -> None:
        check_blend(blend, context.tiling)
        self._context, self._options, self._blend = context, options, blend
        self.last: Routes | None = None
        """Of the last image, as far as it is restored."""
        self._counts = np.zeros(len(context.candidates), np.int64)
        """Tiles of all finished images by candidate."""
        self._macs_total, self._pixels = 0, 0

    @property
    def tiling(self) -> Tiling:
        """How images are cut."""
        return self._context.tiling

    @property
    def candidate_names(self) -> list[str]:
        """The names of the candidates, the most expensive first, the fallback last."""
        return candidate_names(self._context.candidates)

    def identities(self) -> tuple[str, ...]:
        context = self._context
        texts = (
            (settings_text("tiling", context.tiling), settings_text("routing", self._options)),
            _legacy_texts(context.tiling, self._options),
        )
        latency = context.latency.candidates if context.latency else ()
        times = [str(cost((1, 1))) for cost in latency]
        identities = []
        for version, (tiling, routing) in enumerate(texts):
            names = [c.identities[min(version, len(c.identities) - 1)] for c in context.candidates]
            estimator = context.estimator_names[version]
            lines = [*names, estimator, tiling, str(context.exact), routing, str(self._blend)]
            digest = hashlib.sha256("\n".join([*lines, *times]).encode())
            identities.append(digest.hexdigest()[:FINGERPRINT_DIGITS])
        return tuple(identities)

    def manifest_fields(self) -> dict[str, Any]:
        """Return the manifest's fields for the last image."""
        if self.last is None:
            return {}
        errors = [[float(f"{f:.{SIGNIFICANT_DIGITS}g}") for f in row] for row in self.last.errors]
        return {
            "tile": max(self._context.tiling.core),
            "routes": {
                "candidates": self.candidate_names,
                "beta": None if self._options.budget else self._options.beta,
                "rule": self._options.rule,
                "price": self._options.price,
                "macs": self.last.macs,
                "tiles": list(self.last.shape),
                "route": self.last.routes.tolist(),
                "errors": errors,
            },
        }

    def bands(
        self,
        image: RowReader,
        finish: Callable[[Tensor], Tensor],
        check: Callable[[], None] | None = None,
    ) -> Iterator[Tensor]:
        """Yield an image's result from top to bottom, in the memory of some bands of tiles.

        For a budget the image is read twice: all errors are estimated before the first tile is
        restored.
        """
        _, height, width = image.shape
        cut = self.tiling.balanced_rows(height, width)
        plan = None
        if self._options.budget:
            plan = self._plan(image, cut, self._options.budget, check)
            image = image.reopen()
        done: list[tuple[Indices, Floats, int]] = []
        stitcher, first, columns = TileStitcher(height, width, self._blend), 0, len(cut[0])
        for band in _batched(cut):
            tiles = self._cut(image, band)
            if plan is None:
                errors = self._errors(tiles)
                costs = self._costs(band, errors, image.shape[0])
                routes = select_candidates(costs, self._options.beta)
            else:
                tile_range = slice(first, first + len(band))
                errors, routes = plan[0][tile_range], plan[1][tile_range]
            done.append((routes, errors, self._macs(band, routes, image.shape[0])))
            first += len(band)
            self.last = _joined(done, (first // columns, columns), (height, width))
            results = self._restored(band, tiles, routes, (height, width))
            rows = stitcher.stitch_row(
                band[-1].core.bottom, checked(results, (height, width), check), finish
            )
            if rows.shape[1]:
                yield rows
        if self.last:
            self._counts += np.bincount(self.last.routes, minlength=len(self._counts))
            self._macs_total += self.last.macs
            self._pixels += height * width

    def cost_report(self, scale: int) -> dict[str, Any]:
        """Return the shares of the candidates over all images and their multiply-adds.

        `scale` is that of the results; `hd_macs` is the mean for a result of 1280x720.
        """
        tiles, pixels = int(self._counts.sum()), self._pixels * scale**2
        return {
            "candidates": self.candidate_names,
            "shares": (self._counts / max(1, tiles)).tolist(),
            "tiles": tiles,
            "macs": self._macs_total,
            "hd_macs": round(self._macs_total / max(1, pixels) * HD_PIXELS),
        }

    def _plan(
        self,
        image: RowReader,
        cut: list[list[Tile]],
        budget: ImageBudget,
        check: Callable[[], None] | None,
    ) -> tuple[Floats, Indices]:
        """Estimate the errors of all tiles of an image, and select candidates in the budget."""
        band_errors = []
        for band in cut:
            band_errors.append(self._errors(self._cut(image, band)))
            if check:
                check()
        errors, tiles = np.concatenate(band_errors), [tile for band in cut for tile in band]
        channels, height, width = image.shape
        model = self._context.cost_model
        most_expensive = self._planes(channels) * model.candidates[0]((height, width))
        fixed = self._estimator_cost(tiles, channels, model.estimator)
        limit = budget.resolve(most_expensive)
        costs = self._costs(tiles, errors, channels)
        return errors, select_within_budget(costs, limit, fixed, UNITS[model.unit])

    def _cut(self, image: RowReader, band: list[Tile]) -> list[Tensor]:
        """Cut the outer boxes of a band out of an image, float `[C, h, w]`."""
        top = min(t.outer.top for t in band)
        rows = image.rows(top, max(t.outer.bottom for t in band))
        rows = to_float(rows) if rows.dtype == torch.uint8 else rows
        boxes = [tile.outer for tile in band]
        return [rows[:, b.top - top : b.bottom - top, b.left : b.right] for b in boxes]

    def _errors(self, tiles: list[Tensor]) -> Floats:
        """Return f of every candidate on every tile `[T, n]`; for several colours the mean."""
        errors = np.empty((len(tiles), len(self._context.candidates)))
        for indices in _by_size(tiles):
            planes = self._stacked([tiles[index] for index in indices])
            logs = estimate_errors(self._context.estimator, planes).double()
            errors[indices] = (10**logs).view(len(indices), -1, logs.shape[1]).mean(1).numpy()
        return errors

    def _costs(self, tiles: Sequence[Tile], errors: Floats, channels: int) -> TileCosts:
        sizes = [_size(tile) for tile in tiles]
        costs = self._planes(channels) * self._context.cost_model.table(sizes)
        if self._options.rule == "lagrange":
            return lagrangian(errors, costs, [tile.core.area for tile in tiles])
        return equation_8(errors, costs)

    def _macs(self, tiles: Sequence[Tile], routes: Indices, channels: int) -> int:
        """Return the multiply-adds of tiles and of the estimator."""
        pairs = zip(tiles, routes, strict=True)
        macs = sum(self._context.candidates[route].macs(_size(tile)) for tile, route in pairs)
        estimator = self._estimator_cost(tiles, channels, self._context.estimator_macs)
        return int(self._planes(channels) * macs + estimator)

    def _estimator_cost(
        self, tiles: Sequence[Tile], channels: int, cost: Callable[[tuple[int, int]], float]
    ) -> float:
        return self._planes(channels) * sum(cost(_size(tile)) for tile in tiles)

    def _planes(self, channels: int) -> int:
        """Return how many inputs of the networks an image of `channels` is."""
        return channels // self._context.channels

    def _stacked(self, tiles: Sequence[Tensor]) -> Tensor:
        """Stack tiles of one size to inputs of the networks, `[T planes, C, h, w]`."""
        stack = torch.stack(list(tiles))
        return stack.reshape(-1, self._context.channels, *stack.shape[2:])

    def _restored(
        self, band: list[Tile], tiles: list[Tensor], routes: Indices, size: tuple[int, int]
    ) -> Iterator[tuple[Tile, Tensor]]:
        """Yield the tiles of a band and their results, candidate by candidate, in batches."""
        for route in np.unique(routes):
            network = self._context.candidates[route].network
            routed = np.flatnonzero(routes == route)
            for group in _by_size([tiles[index] for index in routed]):
                indices = routed[group]
                for start in range(0, len(indices), TILE_BATCH):
                    batch = indices[start : start + TILE_BATCH]
                    planes = self._stacked([tiles[index] for index in batch])
                    positions = self._positions([band[index] for index in batch], size, len(planes))
                    restored = run_tiles(network, planes, positions)
                    restored = restored.view(len(batch), -1, *restored.shape[2:])
                    yield from zip([band[index] for index in batch], restored, strict=True)

    def _positions(
        self, tiles: list[Tile], size: tuple[int, int], planes: int
    ) -> list[TilePosition]:
        """Return the positions of tiles in the image, for bundles with exact tiles."""
        if not self._context.exact or all(_size(tile) == size for tile in tiles):
            return []
        times = planes // len(tiles)
        return [TilePosition(t.outer.top, t.outer.left, *size) for t in tiles for _ in range(times)]


def _legacy_texts(tiling: Tiling, options: RoutingOptions) -> tuple[str, str]:
    """Return the texts that stood for a tiling and routing options in manifests before 28 November
    2026: the `repr` of classes under the names that they and their fields had then."""
    budget = options.budget
    budget_text = budget and (
        f"ImageBudget(macs={budget.macs!r}, part={budget.fraction!r}, ms={budget.ms!r})"
    )
    return (
        old_repr("Tiling", tiling, "core margin grid full"),
        f"Wish(beta={options.beta!r}, budget={budget_text}, rule={options.rule!r}, "
        f"price={options.price!r})",
    )


def _size(tile: Tile) -> tuple[int, int]:
    return tile.outer.height, tile.outer.width


def _by_size(tiles: Sequence[Tensor]) -> list[Indices]:
    """Group the indices of tiles by size."""
    sizes = np.array([[x.shape[-2], x.shape[-1]] for x in tiles])
    _, groups = np.unique(sizes, axis=0, return_inverse=True)
    return [np.flatnonzero(groups.ravel() == group) for group in range(int(groups.max()) + 1)]


def _batched(cut: list[list[Tile]]) -> list[list[Tile]]:
    """Concatenate bands until they hold a full batch of tiles."""
    count = -(-TILE_BATCH // len(cut[0]))
    starts = range(0, len(cut), count)
    return [list(chain.from_iterable(cut[start : start + count])) for start in starts]


def _joined(
    done: Sequence[tuple[Indices, Floats, int]], shape: tuple[int, int], size: tuple[int, int]
) -> Routes:
    routes, errors, macs = zip(*done, strict=True)
    return Routes(shape, size, np.concatenate(routes), np.concatenate(errors), sum(macs))


def check_blend(blend: int, tiling: Tiling) -> None:
    """Raise `UsageError` for a width of blending, in pixels, that is no part of the margin."""
    if not 0 <= blend <= min(tiling.margin):
        raise UsageError(
            f"--blend {blend}: wanted 0 to {min(tiling.margin)}, the margin of this bundle's tiles"
        )
