"""How is an image restored by a network that is chosen for every tile?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinlens.adaptive.candidates import Candidate, Macs, candidate_names
from thinlens.adaptive.estimator import Estimator, estimate_errors
from thinlens.adaptive.image_budget import ImageBudget
from thinlens.adaptive.cost_model import UNITS, CostModel, macs_model
from thinlens.adaptive.rule import (
    RULES,
    Floats,
    TileCosts,
    Indices,
    select_candidates,
    equation_8,
    lagrangian,
    select_within_budget,
)
from thinlens.adaptive.tile_errors import TILE_BATCH, run_tiles
from thinlens.errors import UsageError
from thinlens.images.joining import Joiner
from thinlens.images.pixels import to_float
from thinlens.images.rows import Rows
from thinlens.images.tiles import Tile, Tiling
from thinlens.models.fingerprint import DIGITS, settings_text
from thinlens.models.legacy_fingerprint import old_repr
from thinlens.models.tile_position import Place
from thinlens.restoration.tiled import checked

HD_PIXELS = 1280 * 720
"""Of the result that SLS counts multiply-adds for."""

SIGNIFICANT = 4
"""Significant digits of an estimate in the manifest."""


@dataclass(frozen=True)
class RoutingOptions:
    """How much is to be spent: at a beta, or within a budget."""

    beta: float = 0.3
    budget: ImageBudget | None = None
    """Takes beta's place: beta, or mu, is found for every image."""
    rule: str = "equation-8"
    price: str = "macs"
    """What a tile costs: multiply-adds, or milliseconds (ms)."""

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise UsageError(f"--beta {self.beta}: wanted a number of 0 or more")
        if self.rule not in RULES:
            raise UsageError(f"--rule {self.rule!r}: wanted {' or '.join(RULES)}")
        if self.price not in UNITS:
            raise UsageError(f"--price {self.price!r}: wanted {' or '.join(UNITS)}")
        if self.budget and self.budget.ms is not None and self.price != "ms":
            raise UsageError("--image-budget in milliseconds: wanted --price ms")
        if self.budget and self.budget.macs is not None and self.price != "macs":
            raise UsageError("--image-budget in multiply-adds: wanted --price macs")
        if self.rule == "lagrange" and self.budget is None:
            raise UsageError("--rule lagrange has no beta: wanted --image-budget")


@dataclass(frozen=True, eq=False)
class RouterContext:
    """What tiles are judged by and restored with."""

    candidates: Sequence[Candidate]
    """The dearest first; the last is free."""
    estimator: Estimator
    estimator_macs: Macs
    tiling: Tiling
    exact: bool
    """Whether networks are told where in the image a tile lies."""
    channels: int
    """The networks'; an RGB image goes through grey ones channel by channel."""
    estimator_names: tuple[str, ...] = ("", "")
    """What the estimator is, today's name first, then that of earlier versions."""
    times: CostModel | None = None
    """In milliseconds; None: tiles are priced by their multiply-adds."""

    @property
    def prices(self) -> CostModel:
        return self.times or macs_model(self.candidates, self.estimator_macs)


@dataclass(frozen=True, eq=False)
class Routes:
    """Where the tiles of an image went, row by row."""

    shape: tuple[int, int]
    """Rows and columns of tiles."""
    size: tuple[int, int]
    """(height, width) of the input."""
    routes: Indices
    errors: Floats
    """f, the estimated MSE of every candidate `[T, n]`."""
    macs: int
    """Of all tiles with their margins and of the estimator."""


class TileRouter:
    """Restores images of any size; each tile by the candidate that the rule picks for it."""

    def __init__(self, means: RouterContext, wish: RoutingOptions, blend: int = 0) -> None:
        if not 0 <= blend <= min(means.tiling.margin):
            raise UsageError(
                f"--blend {blend}: wanted 0 to {min(means.tiling.margin)}, the margin of this "
                "bundle's tiles"
            )
        self._means, self._wish, self._blend = means, wish, blend
        self.last: Routes | None = None
        """Of the last image that was begun."""
        self._counts = np.zeros(len(means.candidates), np.int64)
        """Tiles of all finished images by candidate."""
        self._spent, self._pixels = 0, 0

    def identities(self) -> tuple[str, ...]:
        means, wish = self._means, self._wish
        budget = wish.budget and old_repr("ImageBudget", wish.budget, "macs part ms")
        settings = (
            (settings_text("tiling", means.tiling), settings_text("routing", wish)),
            (
                old_repr("Tiling", means.tiling, "core margin grid full"),
                f"Wish(beta={wish.beta!r}, budget={budget}, rule={wish.rule!r}, "
                f"price={wish.price!r})",
            ),
        )
        times = [str(price((1, 1))) for price in means.times.candidates] if means.times else []
        candidate_names = []
        for place, (tiling, routing) in enumerate(settings):
            candidates = [c.identities[min(place, len(c.identities) - 1)] for c in means.candidates]
            estimator = means.estimator_names[place]
            lines = [*candidates, estimator, tiling, str(means.exact), routing, str(self._blend)]
            digest = hashlib.sha256("\n".join([*lines, *times]).encode())
            candidate_names.append(digest.hexdigest()[:DIGITS])
        return tuple(candidate_names)

    def account(self) -> dict[str, Any]:
        """Return what the manifest says of the last image."""
        found = self.last
        if found is None:
            return {}
        errors = [[float(f"{f:.{SIGNIFICANT}g}") for f in row] for row in found.errors]
        return {
            "tile": max(self._means.tiling.core),
            "routes": {
                "candidates": candidate_names(self._means.candidates),
                "beta": None if self._wish.budget else self._wish.beta,
                "rule": self._wish.rule,
                "price": self._wish.price,
                "macs": found.macs,
                "tiles": list(found.shape),
                "route": found.routes.tolist(),
                "errors": errors,
            },
        }

    def bands(
        self,
        image: Rows,
        finish: Callable[[Tensor], Tensor],
        check: Callable[[], None] | None = None,
    ) -> Iterator[Tensor]:
        """Yield an image's result from top to bottom, in the memory of some bands of tiles.

        For a budget the image is read twice: all tiles are judged before the first is restored.
        """
        _, height, width = image.shape
        cut = self._means.tiling.evenly(height, width).bands(height, width)
        planned = None
        if self._wish.budget:
            planned = self._planned(image, cut, check)
            image = image.again()
        done: list[tuple[Indices, Floats, int]] = []
        joiner, before, columns = Joiner(height, width, self._blend), 0, len(cut[0])
        for band in _gathered(cut):
            tiles = self._cut(image, band)
            if planned is None:
                errors = self._errors(tiles)
                routes = select_candidates(self._offers(band, errors, image.shape[0]), self._wish.beta)
            else:
                part = slice(before, before + len(band))
                errors, routes = planned[0][part], planned[1][part]
            macs = self._macs(band, routes, image.shape[0])
            done.append((routes, errors, macs))
            before += len(band)
            self.last = _together(done, (before // columns, columns), (height, width))
            results = self._restored(band, tiles, routes, (height, width))
            rows = joiner.band(
                band[-1].core.bottom, checked(results, (height, width), check), finish
            )
            if rows.shape[1]:
                yield rows
        if self.last:
            self._counts += np.bincount(self.last.routes, minlength=len(self._counts))
            self._spent += self.last.macs
            self._pixels += height * width

    def bill(self, scale: int) -> dict[str, Any]:
        """Return where the tiles of all images went and what that cost, for results `scale` times
        as large as inputs."""
        tiles, pixels = int(self._counts.sum()), self._pixels * scale**2
        return {
            "candidates": candidate_names(self._means.candidates),
            "shares": (self._counts / max(1, tiles)).tolist(),
            "tiles": tiles,
            "macs": self._spent,
            "hd_macs": round(self._spent / max(1, pixels) * HD_PIXELS),
        }

    def _planned(
        self, image: Rows, cut: list[list[Tile]], check: Callable[[], None] | None
    ) -> tuple[Floats, Indices]:
        """Judge all tiles of an image, and choose within the budget."""
        budget = self._wish.budget
        if budget is None:
            raise ValueError("there is no budget")
        found = []
        for band in cut:
            found.append(self._errors(self._cut(image, band)))
            if check:
                check()
        errors, tiles = np.concatenate(found), [tile for band in cut for tile in band]
        planes, height, width = image.shape
        prices = self._means.prices
        whole = self._planes(planes) * prices.candidates[0]((height, width))
        estimating = self._estimating(tiles, planes, prices.estimator)
        offers = self._offers(tiles, errors, planes)
        return errors, select_within_budget(offers, budget.of(whole), estimating, UNITS[prices.unit])

    def _cut(self, image: Rows, band: list[Tile]) -> list[Tensor]:
        """Cut the outer boxes of a band out of an image, float `[C, h, w]`."""
        top = min(t.outer.top for t in band)
        rows = image.rows(top, max(t.outer.bottom for t in band))
        rows = to_float(rows) if rows.dtype == torch.uint8 else rows
        boxes = [tile.outer for tile in band]
        return [rows[:, b.top - top : b.bottom - top, b.left : b.right] for b in boxes]

    def _errors(self, tiles: list[Tensor]) -> Floats:
        """Return f of every candidate on every tile `[T, n]`; of colours the mean."""
        found = np.empty((len(tiles), len(self._means.candidates)))
        for places in _alike(tiles):
            stack = torch.stack([tiles[place] for place in places])
            planes = stack.reshape(-1, self._means.channels, *stack.shape[2:])
            logs = estimate_errors(self._means.estimator, planes).double()
            found[places] = (10**logs).view(len(places), -1, logs.shape[1]).mean(1).numpy()
        return found

    def _offers(self, tiles: Sequence[Tile], errors: Floats, planes: int) -> TileCosts:
        costs = self._planes(planes) * self._means.prices.of([_size(tile) for tile in tiles])
        if self._wish.rule == "lagrange":
            return lagrangian(errors, costs, [tile.core.area for tile in tiles])
        return equation_8(errors, costs)

    def _macs(self, tiles: Sequence[Tile], routes: Indices, planes: int) -> int:
        """Return what tiles cost with the estimator."""
        pairs = zip(tiles, routes, strict=True)
        macs = sum(self._means.candidates[route].macs(_size(tile)) for tile, route in pairs)
        judging = self._estimating(tiles, planes, self._means.estimator_macs)
        return int(self._planes(planes) * macs + judging)

    def _estimating(
        self, tiles: Sequence[Tile], planes: int, price: Callable[[tuple[int, int]], float]
    ) -> float:
        return self._planes(planes) * sum(price(_size(tile)) for tile in tiles)

    def _planes(self, channels: int) -> int:
        return channels // self._means.channels

    def _restored(
        self, band: list[Tile], tiles: list[Tensor], routes: Indices, size: tuple[int, int]
    ) -> Iterator[tuple[Tile, Tensor]]:
        """Yield the tiles of a band and their results, candidate by candidate, some at a time."""
        for route in np.unique(routes):
            network = self._means.candidates[route].network
            wanted = np.flatnonzero(routes == route)
            for alike in _alike([tiles[place] for place in wanted]):
                places = wanted[alike]
                for start in range(0, len(places), TILE_BATCH):
                    some = places[start : start + TILE_BATCH]
                    stack = torch.stack([tiles[place] for place in some])
                    planes = stack.reshape(-1, self._means.channels, *stack.shape[2:])
                    there = self._places([band[place] for place in some], size, len(planes))
                    large = run_tiles(network, planes, there)
                    large = large.view(len(some), -1, *large.shape[2:])
                    yield from zip([band[place] for place in some], large, strict=True)

    def _places(self, tiles: list[Tile], size: tuple[int, int], planes: int) -> list[Place]:
        """Return where tiles lie, if their margin is meant to make them exact."""
        if not self._means.exact or all(_size(tile) == size for tile in tiles):
            return []
        times = planes // len(tiles)
        return [Place(t.outer.top, t.outer.left, *size) for t in tiles for _ in range(times)]


def _size(tile: Tile) -> tuple[int, int]:
    return tile.outer.height, tile.outer.width


def _alike(tiles: Sequence[Tensor]) -> list[Indices]:
    """Group the places of tiles of one size."""
    sizes = np.array([[x.shape[-2], x.shape[-1]] for x in tiles])
    _, groups = np.unique(sizes, axis=0, return_inverse=True)
    return [np.flatnonzero(groups.ravel() == group) for group in range(int(groups.max()) + 1)]


def _gathered(cut: list[list[Tile]]) -> list[list[Tile]]:
    """Put bands together until they hold a batch of tiles, so that batches are not cut short."""
    together = -(-TILE_BATCH // len(cut[0]))
    starts = range(0, len(cut), together)
    return [list(chain.from_iterable(cut[start : start + together])) for start in starts]


def _together(
    done: Sequence[tuple[Indices, Floats, int]], shape: tuple[int, int], size: tuple[int, int]
) -> Routes:
    routes, errors, macs = zip(*done, strict=True)
    return Routes(shape, size, np.concatenate(routes), np.concatenate(errors), sum(macs))
