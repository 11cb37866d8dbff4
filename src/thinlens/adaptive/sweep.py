"""How good and how dear is a bundle from beta 0 to the cheapest, beside each of its networks alone?

Every candidate restores every tile once. What any choice of routes gives is then known exactly,
for the squared error of an image is the sum of its tiles'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thinlens.adaptive.estimator import Estimator, estimate_errors
from thinlens.adaptive.cost_model import macs_model
from thinlens.adaptive.router import HD_PIXELS, RouterContext
from thinlens.adaptive.rule import Floats, TileCosts, Indices, select_candidates, equation_8, lagrangian, breakpoints
from thinlens.adaptive.tile_errors import core_mse, run_tiles
from thinlens.images.pixels import to_uint8
from thinlens.images.tiles import Box, Tile
from thinlens.restoration.whole import restore_image
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.metrics import judged
from thinlens.tasks.task import Judgement, Task

POINTS = 40
"""Of a curve: t at as many quantiles of the breakpoints of all tiles."""

Progress = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class SweepPoint:
    """One choice of t, on all images."""

    t: float
    psnr: float
    """Mean of the images'."""
    gmacs: float
    """For a result of 1280x720; margins and the estimator are counted."""
    shares: list[float]
    """Of the tiles that each candidate restored."""


@dataclass(frozen=True, eq=False)
class _Image:
    """What is known of one image."""

    squares: Floats
    """Sum of a core's squared errors, as the task judges, by every candidate `[T, n]`."""
    whole: Floats
    """The same of the whole image by every candidate without tiles, `[n]`."""
    compared: int
    """Values that are compared."""
    true: Floats
    """MSE of every tile's core by every candidate `[T, n]`: what an oracle estimates."""
    estimates: dict[str, Floats]
    prices: Floats
    """What the rules weigh, in the bundle's unit `[T, n]`."""
    costs: Floats
    """Multiply-adds `[T, n]`."""
    areas: Floats
    pixels: int
    """Of the result."""
    estimating: dict[str, int]


@dataclass(frozen=True)
class Sweep:
    """The curves by their names, and the candidates alone as points."""

    images: int
    curves: dict[str, list[SweepPoint]]
    """By estimator and rule; `oracle` knows the true errors and pays no estimator."""
    static: dict[str, SweepPoint]
    """Each candidate alone, on whole images."""
    tiled: dict[str, float]
    """PSNR of each candidate alone, on tiles: what their margins cost."""

    def above_chord(self, name: str) -> tuple[float, float] | None:
        """Return the most that a curve lies above the chord from the cheapest network to the
        dearest, in dB, and the GMACs there; None without a point between them.

        The free candidate is no network.
        """
        points = sorted(self.static.values(), key=lambda point: point.gmacs)[1:]
        low, high = points[0], points[-1]
        between = []
        for point in self.curves[name]:
            if low.gmacs < point.gmacs < high.gmacs:
                part = (point.gmacs - low.gmacs) / (high.gmacs - low.gmacs)
                chord = low.psnr + part * (high.psnr - low.psnr)
                between.append((point.psnr - chord, point.gmacs))
        return max(between, default=None)


def sweep(
    means: RouterContext,
    estimators: Mapping[str, tuple[Estimator, Callable[[tuple[int, int]], int]]],
    task: Task,
    folder: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sweep:
    """Restore a test folder by every candidate, and choose at every t.

    `estimators` are those that are compared, with their costs.
    """
    pairs, images = open_pairs(folder, task), []
    for index, pair in enumerate(pairs):
        image, target = read_pair(pair, task, index, seed)
        images.append(_measured(means, estimators, task, image, target))
        if progress:
            progress(index + 1, len(pairs), {})
    curves = {}
    for name in estimators:
        curves[name] = _curve(images, name, "equation-8", task.judgement)
        curves[f"{name}, lagrange"] = _curve(images, name, "lagrange", task.judgement)
    curves["oracle, lagrange"] = _curve(images, "oracle", "lagrange", task.judgement)
    return Sweep(len(images), curves, *_alone(images, means, task))


def _measured(
    means: RouterContext,
    estimators: Mapping[str, tuple[Estimator, Callable[[tuple[int, int]], int]]],
    task: Task,
    image: Tensor,
    target: Tensor,
) -> _Image:
    height, width = image.shape[-2:]
    tiles = means.tiling.evenly(height, width).tiles(height, width)
    stack = torch.stack([image[:, *t.outer.inside(Box(0, 0, height, width))] for t in tiles])
    squares, whole, true = [], [], []
    for candidate in means.candidates:
        large = run_tiles(candidate.network, stack)
        true.append(core_mse(large, tiles, target, task.scale).numpy())
        joined = _joined(large, tiles, target, task.scale)
        squares.append(_by_tile(_squares(joined, target, task.judgement), tiles, task.scale))
        alone = to_uint8(restore_image(candidate.network, image, task.channels))
        whole.append(float(_squares(alone, target, task.judgement).sum()))
    sizes = [(t.outer.height, t.outer.width) for t in tiles]
    logs = {
        name: estimate_errors(judge, stack).double().numpy() for name, (judge, _) in estimators.items()
    }
    return _Image(
        np.stack(squares, axis=1),
        np.array(whole),
        judged(target, target, task.judgement)[0].numel(),
        np.stack(true, axis=1),
        {name: 10**found for name, found in logs.items()},
        means.prices.of(sizes),
        macs_model(means.candidates, means.estimator_macs).of(sizes),
        np.array([tile.core.area for tile in tiles], np.float64),
        height * width * task.scale**2,
        {name: sum(macs(size) for size in sizes) for name, (_, macs) in estimators.items()},
    )


def _joined(large: Tensor, tiles: Sequence[Tile], like: Tensor, scale: int) -> Tensor:
    """Lay the cores of restored tiles side by side, uint8."""
    image = torch.empty_like(like)
    whole = Box(0, 0, like.shape[-2] // scale, like.shape[-1] // scale)
    for pixels, tile in zip(large, tiles, strict=True):
        core = pixels[:, *tile.core.inside(tile.outer, scale)]
        image[:, *tile.core.inside(whole, scale)] = to_uint8(core)
    return image


def _squares(image: Tensor, target: Tensor, judgement: Judgement) -> Tensor:
    """Return the squared errors that a task judges `[H, W]`, 0 in the border that it cuts off."""
    x, y = judged(image, target, judgement)
    crop = judgement.crop
    return torch.nn.functional.pad((x - y).square().sum(0), (crop, crop, crop, crop))


def _by_tile(squares: Tensor, tiles: Sequence[Tile], scale: int) -> Floats:
    whole = Box(0, 0, squares.shape[-2] // scale, squares.shape[-1] // scale)
    return np.array([float(squares[tile.core.inside(whole, scale)].sum()) for tile in tiles])


def _offers(image: _Image, name: str, rule: str) -> TileCosts:
    errors = image.true if name == "oracle" else image.estimates[name]
    if rule == "lagrange":
        return lagrangian(errors, image.prices, image.areas)
    return equation_8(errors, image.prices)


def _curve(images: Sequence[_Image], name: str, rule: str, by: Judgement) -> list[SweepPoint]:
    """Return points from t = 0 to the cheapest, at quantiles of all breakpoints."""
    offers = [_offers(image, name, rule) for image in images]
    breaks = np.concatenate([breakpoints(offer).t for offer in offers])
    at = np.quantile(breaks, np.linspace(0, 1, POINTS - 1)) if len(breaks) else np.empty(0)
    # just beyond a breakpoint, on whose other side rounding might put it
    ts = [0.0, *(float(t) * (1 + 1e-9) for t in np.unique(at))]
    return [_point(t, images, [select_candidates(offer, t) for offer in offers], name, by) for t in ts]


def _point(
    t: float, images: Sequence[_Image], routes: Sequence[Indices], name: str, by: Judgement
) -> SweepPoint:
    macs, decibels = 0.0, []
    counts = np.zeros(images[0].costs.shape[1])
    for image, route in zip(images, routes, strict=True):
        places = np.arange(len(route))
        macs += image.costs[places, route].sum() + image.estimating.get(name, 0)
        decibels.append(_psnr(image.squares[places, route].sum(), image.compared, by))
        counts += np.bincount(route, minlength=len(counts))
    pixels = sum(image.pixels for image in images)
    return SweepPoint(
        t,
        float(np.mean(decibels)),
        float(macs / pixels * HD_PIXELS / 1e9),
        (counts / counts.sum()).round(4).tolist(),
    )


def _alone(
    images: Sequence[_Image], means: RouterContext, task: Task
) -> tuple[dict[str, SweepPoint], dict[str, float]]:
    """Return every candidate alone on whole images, and its PSNR on tiles."""
    static, tiled = {}, {}
    for place, candidate in enumerate(means.candidates):
        shares = [float(other == place) for other in range(len(means.candidates))]
        macs = candidate.macs((720 // task.scale, 1280 // task.scale))
        whole = [_psnr(x.whole[place], x.compared, task.judgement) for x in images]
        tiles = [_psnr(x.squares[:, place].sum(), x.compared, task.judgement) for x in images]
        static[candidate.name] = SweepPoint(math.nan, float(np.mean(whole)), macs / 1e9, shares)
        tiled[candidate.name] = float(np.mean(tiles))
    return static, tiled


def _psnr(squares: float, compared: int, by: Judgement) -> float:
    return 10 * math.log10(by.range**2 * compared / squares) if squares else math.inf
