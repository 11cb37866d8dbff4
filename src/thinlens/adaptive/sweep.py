"""Trade-off curves of a bundle, PSNR by cost over all of beta, beside each network alone.

Every candidate restores every tile once. The result of any selection is then known exactly, because
the squared error of an image is the sum of its tiles'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thinlens.adaptive.context import RouterContext
from thinlens.adaptive.cost_model import macs_model
from thinlens.adaptive.estimator import Estimator, estimate_errors
from thinlens.adaptive.router import HD_PIXELS
from thinlens.adaptive.rule import (
    PAPER_BETAS,
    Floats,
    Indices,
    TileCosts,
    breakpoints,
    equation_8,
    lagrangian,
    select_candidates,
)
from thinlens.adaptive.tile_errors import core_mse
from thinlens.images.pixels import to_uint8
from thinlens.images.tiles import Box, Tile
from thinlens.progress import Progress
from thinlens.restoration.network import run_tiles
from thinlens.restoration.tiled import restore_image
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.metrics import metric_inputs
from thinlens.tasks.task import MetricProtocol, Task

CURVE_POINTS = 40
"""Points of a curve, at quantiles of the breakpoints t of all tiles."""


@dataclass(frozen=True)
class SweepPoint:
    """One value of t, on all images."""

    t: float
    psnr: float
    """Mean of the images' in dB."""
    gmacs: float
    """For a result of 1280x720; margins and the estimator are counted."""
    shares: list[float]
    """Fraction of the tiles that each candidate restored."""


@dataclass(frozen=True, eq=False)
class _Image:
    """The errors and costs of one image."""

    squares: Floats
    """Sum of a core's squared errors by the task's protocol, by every candidate `[T, n]`."""
    whole: Floats
    """The same of the whole image by every candidate without tiles, `[n]`."""
    compared: int
    """Number of values in the sums."""
    true: Floats
    """MSE of every tile's core by every candidate `[T, n]`: the oracle's estimates."""
    estimates: dict[str, Floats]
    """MSE `[T, n]` by estimator."""
    prices: Floats
    """Costs in the unit of the bundle's rule `[T, n]`."""
    costs: Floats
    """Multiply-adds `[T, n]`."""
    areas: Floats
    """Input pixels of the cores `[T]`."""
    pixels: int
    """Of the result."""
    estimator_macs: dict[str, int]
    """Multiply-adds by estimator."""


@dataclass(frozen=True)
class Sweep:
    """The curves by their names, and the candidates alone as points."""

    images: int
    curves: dict[str, list[SweepPoint]]
    """By estimator and rule; `oracle` has the true errors and no estimator's cost."""
    static: dict[str, SweepPoint]
    """Each candidate alone, on whole images."""
    tiled: dict[str, float]
    """PSNR in dB of each candidate alone, on tiles: the effect of the margins."""

    def above_chord(self, name: str) -> tuple[float, float] | None:
        """Return the most that a curve is above the chord from the cheapest network to the most
        expensive one, in dB, and the GMACs at that point; None without a point between them.

        The fallback is no network.
        """
        points = sorted(self.static.values(), key=lambda point: point.gmacs)[1:]
        low, high = points[0], points[-1]
        between = []
        for point in self.curves[name]:
            if low.gmacs < point.gmacs < high.gmacs:
                fraction = (point.gmacs - low.gmacs) / (high.gmacs - low.gmacs)
                chord = low.psnr + fraction * (high.psnr - low.psnr)
                between.append((point.psnr - chord, point.gmacs))
        return max(between, default=None)


def sweep(  # noqa: PLR0913 - keyword-only, each has one meaning
    context: RouterContext,
    estimators: Mapping[str, tuple[Estimator, Callable[[tuple[int, int]], int]]],
    task: Task,
    folder: Path,
    *,
    seed: int = 0,
    uniform_beta: bool = False,
    progress: Progress | None = None,
) -> Sweep:
    """Restore a test folder by every candidate, and evaluate the selection at every t.

    `estimators` are those that are compared, with their multiply-adds by the size of a tile.
    `uniform_beta` adds the curves of SLS's protocol, at evenly spaced beta from 0 to 10.
    """
    pairs, images = open_pairs(folder, task), []
    for index, pair in enumerate(pairs):
        image, target = read_pair(pair, task, index, seed)
        images.append(_measured(context, estimators, task, image, target))
        if progress:
            progress(index + 1, len(pairs), {})
    curves = {}
    for name in estimators:
        curves[name] = _curve(images, name, "equation-8", task.protocol)
        curves[f"{name}, lagrange"] = _curve(images, name, "lagrange", task.protocol)
        if uniform_beta:
            betas = np.linspace(*PAPER_BETAS, CURVE_POINTS)
            costs = [_tile_costs(image, name, "equation-8") for image in images]
            curves[f"{name}, uniform beta"] = _points(betas, images, costs, name, task.protocol)
    curves["oracle, lagrange"] = _curve(images, "oracle", "lagrange", task.protocol)
    return Sweep(len(images), curves, *_alone(images, context, task))


def _measured(
    context: RouterContext,
    estimators: Mapping[str, tuple[Estimator, Callable[[tuple[int, int]], int]]],
    task: Task,
    image: Tensor,
    target: Tensor,
) -> _Image:
    height, width = image.shape[-2:]
    tiles = context.tiling.balanced(height, width).tiles(height, width)
    stack = torch.stack([image[:, *t.outer.slices_in(Box(0, 0, height, width))] for t in tiles])
    squares, whole, true = [], [], []
    for candidate in context.candidates:
        restored = run_tiles(candidate.network, stack)
        true.append(core_mse(restored, tiles, target, task.scale).numpy())
        stitched = _stitched(restored, tiles, target, task.scale)
        squares.append(_by_tile(_squares(stitched, target, task.protocol), tiles, task.scale))
        alone = to_uint8(restore_image(candidate.network, image, task.channels))
        whole.append(float(_squares(alone, target, task.protocol).sum()))
    sizes = [(t.outer.height, t.outer.width) for t in tiles]
    logs = {
        name: estimate_errors(estimator, stack).double().numpy()
        for name, (estimator, _) in estimators.items()
    }
    return _Image(
        np.stack(squares, axis=1),
        np.array(whole),
        metric_inputs(target, target, task.protocol)[0].numel(),
        np.stack(true, axis=1),
        {name: 10**estimates for name, estimates in logs.items()},
        context.cost_model.table(sizes),
        macs_model(context.candidates, context.estimator_macs).table(sizes),
        np.array([tile.core.area for tile in tiles], np.float64),
        height * width * task.scale**2,
        {name: sum(macs(size) for size in sizes) for name, (_, macs) in estimators.items()},
    )


def _stitched(restored: Tensor, tiles: Sequence[Tile], like: Tensor, scale: int) -> Tensor:
    """Stitch the cores of restored tiles to an image, uint8."""
    image = torch.empty_like(like)
    whole = Box(0, 0, like.shape[-2] // scale, like.shape[-1] // scale)
    for pixels, tile in zip(restored, tiles, strict=True):
        core = pixels[:, *tile.core.slices_in(tile.outer, scale)]
        image[:, *tile.core.slices_in(whole, scale)] = to_uint8(core)
    return image


def _squares(image: Tensor, target: Tensor, protocol: MetricProtocol) -> Tensor:
    """Return the squared errors by a protocol `[H, W]`, 0 in the border that it crops."""
    x, y = metric_inputs(image, target, protocol)
    crop = protocol.crop
    return torch.nn.functional.pad((x - y).square().sum(0), (crop, crop, crop, crop))


def _by_tile(squares: Tensor, tiles: Sequence[Tile], scale: int) -> Floats:
    whole = Box(0, 0, squares.shape[-2] // scale, squares.shape[-1] // scale)
    return np.array([float(squares[tile.core.slices_in(whole, scale)].sum()) for tile in tiles])


def _tile_costs(image: _Image, name: str, rule: str) -> TileCosts:
    errors = image.true if name == "oracle" else image.estimates[name]
    if rule == "lagrange":
        return lagrangian(errors, image.prices, image.areas)
    return equation_8(errors, image.prices)


def _curve(
    images: Sequence[_Image], name: str, rule: str, protocol: MetricProtocol
) -> list[SweepPoint]:
    """Return points from t = 0 to the cheapest, at quantiles of all breakpoints."""
    costs = [_tile_costs(image, name, rule) for image in images]
    breaks = np.concatenate([breakpoints(image_costs).t for image_costs in costs])
    quantiles = np.linspace(0, 1, CURVE_POINTS - 1)
    at = np.quantile(breaks, quantiles) if len(breaks) else np.empty(0)
    # just above a breakpoint, so that rounding does not move it to the other side
    ts = [0.0, *(float(t) * (1 + 1e-9) for t in np.unique(at))]
    return _points(ts, images, costs, name, protocol)


def _points(
    ts: Iterable[float],
    images: Sequence[_Image],
    costs: Sequence[TileCosts],
    name: str,
    protocol: MetricProtocol,
) -> list[SweepPoint]:
    return [
        _point(float(t), images, [select_candidates(c, float(t)) for c in costs], name, protocol)
        for t in ts
    ]


def _point(
    t: float,
    images: Sequence[_Image],
    routes: Sequence[Indices],
    name: str,
    protocol: MetricProtocol,
) -> SweepPoint:
    macs, decibels = 0.0, []
    counts = np.zeros(images[0].costs.shape[1])
    for image, route in zip(images, routes, strict=True):
        tiles = np.arange(len(route))
        macs += image.costs[tiles, route].sum() + image.estimator_macs.get(name, 0)
        decibels.append(_psnr(image.squares[tiles, route].sum(), image.compared, protocol))
        counts += np.bincount(route, minlength=len(counts))
    pixels = sum(image.pixels for image in images)
    return SweepPoint(
        t,
        float(np.mean(decibels)),
        float(macs / pixels * HD_PIXELS / 1e9),
        (counts / counts.sum()).round(4).tolist(),
    )


def _alone(
    images: Sequence[_Image], context: RouterContext, task: Task
) -> tuple[dict[str, SweepPoint], dict[str, float]]:
    """Return every candidate alone on whole images, and its PSNR on tiles."""
    static, tiled = {}, {}
    for index, candidate in enumerate(context.candidates):
        shares = [float(other == index) for other in range(len(context.candidates))]
        macs = candidate.macs((720 // task.scale, 1280 // task.scale))
        whole = [_psnr(x.whole[index], x.compared, task.protocol) for x in images]
        tiles = [_psnr(x.squares[:, index].sum(), x.compared, task.protocol) for x in images]
        static[candidate.name] = SweepPoint(math.nan, float(np.mean(whole)), macs / 1e9, shares)
        tiled[candidate.name] = float(np.mean(tiles))
    return static, tiled


def _psnr(squares: float, compared: int, protocol: MetricProtocol) -> float:
    return 10 * math.log10(protocol.range**2 * compared / squares) if squares else math.inf
