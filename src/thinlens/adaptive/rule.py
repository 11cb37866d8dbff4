"""Which candidate restores which tile? (SLS, section 3.6)

Candidates stand in the order of their costs, the dearest first. Both rules take, for every tile,
the candidate with the least `loss + t price`: a line in t for each, of which the lower envelope
wins. So the t at which a tile changes its candidate is known exactly, and so is the cost of an
image at every t. Equal sums go to the cheaper candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thinlens.errors import UsageError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

FLAT_MSE = 1 / (12 * 255**2)
"""The MSE of rounding to 8 bits, for images in [0, 1]. A tile that the cheapest candidate restores
better than that leaves nothing to gain."""

PAPER_BETAS = (0.0, 10.0)
"""SLS draws beta uniformly from here (section S4)."""


@dataclass(frozen=True, eq=False)
class TileCosts:
    """What every candidate offers for every tile, `[T, n]` each."""

    losses: Floats
    prices: Floats
    costs: Floats
    """What the choice really costs, in the unit of budgets."""

    @property
    def tiles(self) -> Indices:
        """The number of every tile."""
        return np.arange(len(self.costs))

    def spent(self, routes: Indices) -> float:
        """Return the cost of all tiles together."""
        return float(self.costs[self.tiles, routes].sum())


def equation_8(errors: ArrayLike, costs: ArrayLike) -> TileCosts:
    """Weigh by equation 8, with t for its beta.

    `errors` f `[T, n]` are the estimated MSE, `costs` C `[T, n]` what each tile costs. Maximising
    `beta (C_1 - C_i) / C_1 + (f_n - f_i) / f_n` is minimising `f_i / f_n + beta C_i / C_1`.
    """
    f, c = _checked(errors, costs)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        losses = f / f[:, -1:]
    return TileCosts(_settled(losses, f), c / np.maximum(c[:, :1], np.finfo(float).tiny), c)


def lagrangian(errors: ArrayLike, costs: ArrayLike, areas: ArrayLike) -> TileCosts:
    """Weigh by `f_i area + t C_i`, with t for the Lagrange multiplier mu.

    The error of an image is the sum of its tiles', for which this is the best choice at a total
    cost, as far as the estimates hold. Equation 8 spends on easy tiles what it spends on hard ones.
    """
    f, c = _checked(errors, costs)
    return TileCosts(_settled(f * np.asarray(areas, np.float64)[:, None], f), c, c)


RULES = ("equation-8", "lagrange")


def select_candidates(offers: TileCosts, t: float) -> Indices:
    """Return every tile's candidate at `t`, which is 0 or more."""
    if not 0 <= t < np.inf:
        raise UsageError(f"beta {t}: wanted a number of 0 or more")
    totals = offers.losses + t * offers.prices
    routes: Indices = totals.shape[1] - 1 - totals[:, ::-1].argmin(axis=1)
    return routes


@dataclass(frozen=True, eq=False)
class Breakpoints:
    """How the choice goes from t = 0 on; each step takes one tile to a cheaper candidate."""

    start: Indices
    """Every tile's candidate at t = 0."""
    t: Floats
    """Where each step is taken, rising."""
    tile: Indices
    before: Indices
    after: Indices


def breakpoints(offers: TileCosts) -> Breakpoints:
    """Return the exact breakpoints of all tiles."""
    start = select_candidates(offers, 0)
    at, found = start.copy(), []
    tiles, n = offers.tiles, offers.costs.shape[1]
    for _ in range(n - 1):
        loss, price = (x[tiles, at][:, None] for x in (offers.losses, offers.prices))
        with np.errstate(invalid="ignore", divide="ignore"):
            meets = (offers.losses - loss) / (price - offers.prices)
        # only lines that fall more slowly win later
        meets = np.where((offers.prices < price) & ~np.isnan(meets), meets, np.inf)
        after = n - 1 - meets[:, ::-1].argmin(axis=1)
        t = meets[tiles, after]
        moving = np.isfinite(t)
        found.append(np.stack([t, tiles, at, after])[:, moving])
        at = np.where(moving, after, at)
    t, tile, before, after = np.concatenate(found, axis=1) if found else np.empty((4, 0))
    order = np.lexsort((before, t))
    return Breakpoints(start, t[order], *(x[order].astype(np.int64) for x in (tile, before, after)))


def select_within_budget(offers: TileCosts, budget: float, fixed: float = 0, unit: str = "multiply-adds") -> Indices:
    """Return the candidates that cost `budget` at most, and as near to it as steps of tiles allow.

    `fixed` is what is spent whatever is chosen, on estimates, and is part of the budget.

    t is found by bisection among the breakpoints; what is left then buys back the last steps that
    still fit. Raises `UsageError` if even the cheapest candidates cost more.
    """
    path = breakpoints(offers)
    saved = offers.costs[path.tile, path.before] - offers.costs[path.tile, path.after]
    after_steps = fixed + offers.spent(path.start) - np.concatenate([[0], np.cumsum(saved)])
    # costs fall along the path: the first place that is cheap enough
    taken = int(np.searchsorted(-after_steps, -budget * (1 + ROUNDING)))
    if taken == len(after_steps):
        raise UsageError(
            f"a budget of {budget:.3g} {unit}: this image takes {after_steps[-1]:.3g} at "
            f"least and {after_steps[0]:.3g} where each tile goes to its best candidate"
        )
    routes = path.start.copy()
    for step in range(taken):
        routes[path.tile[step]] = path.after[step]
    left, kept = budget - after_steps[taken], set()
    for step in range(taken - 1, -1, -1):
        tile = path.tile[step]
        if tile not in kept and saved[step] <= left:
            routes[tile] = path.before[step]
            left -= saved[step]
        else:
            kept.add(tile)
    return routes


ROUNDING = 1e-9
"""Sums of costs in another order differ by less, as a part of them."""


def _checked(errors: ArrayLike, costs: ArrayLike) -> tuple[Floats, Floats]:
    f, c = np.asarray(errors, np.float64), np.asarray(costs, np.float64)
    c = np.broadcast_to(c, f.shape)
    if f.ndim != 2 or f.shape[1] < 1 or (np.diff(c, axis=1) > 0).any():
        raise ValueError("wanted errors and costs [T, n], the dearest candidate first")
    return f, c


def _settled(losses: Floats, errors: Floats) -> Floats:
    """Send flat tiles to the cheapest candidate and those with no finite estimate to the dearest,
    whatever the price."""
    losses = losses.copy()
    flat, unknown = errors[:, -1] < FLAT_MSE, ~np.isfinite(errors).all(axis=1)
    losses[flat | unknown] = np.inf
    losses[flat, -1] = 0
    losses[unknown] = np.inf
    losses[unknown, 0] = 0
    return losses
