"""Routing rules: select a candidate for every tile by error and cost (SLS, equation 8).

Candidates are ordered by cost, the most expensive first. Both rules select, for every tile, the
candidate with the least `loss + t price`: each is a line in t, and the lower envelope of the lines
wins. So the breakpoints t at which a tile changes its candidate are exact, and so is the cost of an
image at every t. Ties go to the cheaper candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thinlens.errors import UsageError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

Rule = Literal["equation-8", "lagrange"]
RULES: tuple[Rule, ...] = get_args(Rule)

FLAT_MSE = 1 / (12 * 255**2)
"""The MSE of rounding to 8 bits, for images in [0, 1]. Where the cheapest candidate is better than
that, no other improves the tile."""

PAPER_BETAS = (0.0, 10.0)
"""Range from which SLS draws beta uniformly (section S4 of the appendix)."""

SUM_TOLERANCE = 1e-9
"""Relative difference of sums of costs in another order."""


@dataclass(frozen=True, eq=False)
class TileCosts:
    """The loss, price and cost of every candidate for every tile, `[T, n]` each."""

    losses: Floats
    prices: Floats
    """What the rule multiplies by t."""
    costs: Floats
    """The cost in the unit of budgets."""

    @property
    def tiles(self) -> Indices:
        """The index of every tile."""
        return np.arange(len(self.costs))

    def total(self, routes: Indices) -> float:
        """Return the cost of all tiles together."""
        return float(self.costs[self.tiles, routes].sum())


def equation_8(errors: ArrayLike, costs: ArrayLike) -> TileCosts:
    """Return the losses and prices of equation 8, in which t is beta.

    `errors` f `[T, n]` are the estimated MSE, `costs` C `[T, n]` the cost of each tile. Maximising
    `beta (C_1 - C_i) / C_1 + (f_n - f_i) / f_n` is minimising `f_i / f_n + beta C_i / C_1`.

    >>> costs = equation_8([[0.5, 1.0]], [2.0, 1.0])
    >>> select_candidates(costs, 0.5), select_candidates(costs, 1.5)
    (array([0]), array([1]))
    """
    f, c = _checked(errors, costs)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        losses = f / f[:, -1:]
    prices = c / np.maximum(c[:, :1], np.finfo(float).tiny)
    return TileCosts(_with_forced_routes(losses, f), prices, c)


def lagrangian(errors: ArrayLike, costs: ArrayLike, areas: ArrayLike) -> TileCosts:
    """Return the losses and prices of `f_i area + t C_i`, in which t is the Lagrange multiplier mu.

    The error of an image is the sum of its tiles', so this minimises it at a given total cost, as
    far as the estimates are right. Equation 8 instead weighs relative errors, of all tiles alike.
    """
    f, c = _checked(errors, costs)
    losses = f * np.asarray(areas, np.float64)[:, None]
    return TileCosts(_with_forced_routes(losses, f), c, c)


def select_candidates(costs: TileCosts, t: float) -> Indices:
    """Return every tile's candidate at `t`, which is 0 or more."""
    if not 0 <= t < np.inf:
        raise UsageError(f"beta {t}: wanted a number of 0 or more")
    totals = costs.losses + t * costs.prices
    routes: Indices = totals.shape[1] - 1 - totals[:, ::-1].argmin(axis=1)
    return routes


@dataclass(frozen=True, eq=False)
class Breakpoints:
    """The selection as t rises from 0; each breakpoint moves one tile to a cheaper candidate."""

    start: Indices
    """Every tile's candidate at t = 0."""
    t: Floats
    """t of each breakpoint, rising."""
    tile: Indices
    before: Indices
    """The tile's candidate below t."""
    after: Indices
    """The tile's candidate above t."""


def breakpoints(costs: TileCosts) -> Breakpoints:
    """Return the exact breakpoints of all tiles."""
    start = select_candidates(costs, 0)
    current, moves = start.copy(), []
    tiles, n = costs.tiles, costs.costs.shape[1]
    for _ in range(n - 1):
        loss, price = (x[tiles, current][:, None] for x in (costs.losses, costs.prices))
        with np.errstate(invalid="ignore", divide="ignore"):
            meets = (costs.losses - loss) / (price - costs.prices)
        # only lines with a smaller slope win at larger t
        meets = np.where((costs.prices < price) & ~np.isnan(meets), meets, np.inf)
        after = n - 1 - meets[:, ::-1].argmin(axis=1)
        t = meets[tiles, after]
        moving = np.isfinite(t)
        moves.append(np.stack([t, tiles, current, after])[:, moving])
        current = np.where(moving, after, current)
    t, tile, before, after = np.concatenate(moves, axis=1) if moves else np.empty((4, 0))
    order = np.lexsort((before, t))
    return Breakpoints(start, t[order], *(x[order].astype(np.int64) for x in (tile, before, after)))


def select_within_budget(
    costs: TileCosts, budget: float, fixed: float = 0, unit: str = "multiply-adds"
) -> Indices:
    """Return the candidates at the smallest t whose total cost is at most `budget`.

    `fixed` is the cost of the estimates, which is part of the budget. What remains of the budget
    reverts the last breakpoints that fit into it. Raises `UsageError` if even the cheapest
    candidates cost more.
    """
    path = breakpoints(costs)
    savings = costs.costs[path.tile, path.before] - costs.costs[path.tile, path.after]
    totals = fixed + costs.total(path.start) - np.concatenate([[0], np.cumsum(savings)])
    # totals fall along the path: the first that is within the budget
    count = int(np.searchsorted(-totals, -budget * (1 + SUM_TOLERANCE)))
    if count == len(totals):
        raise UsageError(
            f"a budget of {budget:.3g} {unit}: this image takes {totals[-1]:.3g} at "
            f"least and {totals[0]:.3g} where each tile goes to its best candidate"
        )
    routes = path.start.copy()
    for step in range(count):
        routes[path.tile[step]] = path.after[step]
    remaining, fixed_tiles = budget - totals[count], set()
    for step in range(count - 1, -1, -1):
        tile = path.tile[step]
        if tile not in fixed_tiles and savings[step] <= remaining:
            routes[tile] = path.before[step]
            remaining -= savings[step]
        else:
            fixed_tiles.add(tile)
    return routes


def _checked(errors: ArrayLike, costs: ArrayLike) -> tuple[Floats, Floats]:
    f, c = np.asarray(errors, np.float64), np.asarray(costs, np.float64)
    c = np.broadcast_to(c, f.shape)
    if f.ndim != 2 or f.shape[1] < 1 or (np.diff(c, axis=1) > 0).any():
        raise ValueError("wanted errors and costs [T, n], the most expensive candidate first")
    return f, c


def _with_forced_routes(losses: Floats, errors: Floats) -> Floats:
    """Force flat tiles to the cheapest candidate and tiles with no finite estimate to the most
    expensive one, at every t."""
    losses = losses.copy()
    flat, unknown = errors[:, -1] < FLAT_MSE, ~np.isfinite(errors).all(axis=1)
    losses[flat | unknown] = np.inf
    losses[flat, -1] = 0
    losses[unknown] = np.inf
    losses[unknown, 0] = 0
    return losses
