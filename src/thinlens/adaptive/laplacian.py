"""Laplacian-energy table: the baseline estimator of a tile's restoration error.

It needs no network: it maps the mean square of the tile's Laplacian to the mean log error of the
training tiles with the same energy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thinlens.adaptive.tile_errors import TileErrors
from thinlens.errors import UsageError

MAX_KNOTS = 32
MIN_TILES = 8
"""Fewest tiles that a knot is the mean of."""

MIN_ENERGY = 1e-8
"""Added to a mean square before its logarithm."""

MACS_PER_PIXEL = 9
"""Multiply-adds a grey input pixel: three colours averaged, five values summed, one squared."""


@dataclass(frozen=True)
class LaplacianTable:
    """Estimates errors by interpolation in log10 of a tile's Laplacian energy."""

    knots: list[float]
    """log10 of the energy, rising."""
    values: list[list[float]]
    """log10 of the MSE of every candidate, `[knots, n]`."""

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.values}
        if len(self.knots) != len(self.values) or len(widths) != 1 or not self.knots:
            raise UsageError("its table of the Laplacian is malformed")

    def __call__(self, tiles: Tensor) -> Tensor:
        """Map tiles `[T, C, h, w]` in [0, 1] to log10 errors `[T, n]`."""
        x = log_laplacian_energy(tiles).numpy()
        columns = [np.interp(x, self.knots, column) for column in zip(*self.values, strict=True)]
        return torch.from_numpy(np.stack(columns, axis=1)).float()

    def macs(self, size: tuple[int, int]) -> int:
        """Return its multiply-adds on a tile of (height, width)."""
        return MACS_PER_PIXEL * size[0] * size[1]


def fit_laplacian(samples: TileErrors) -> LaplacianTable:
    """Fit the table: tiles sorted by energy, in groups of equal size, one knot a group."""
    x, errors = log_laplacian_energy(samples.tiles).numpy(), samples.errors.double().numpy()
    order = np.argsort(x, kind="stable")
    count = max(1, min(MAX_KNOTS, len(order) // MIN_TILES))
    groups = np.array_split(order, count)
    knots = [round(float(x[group].mean()), 6) for group in groups]
    values = [[round(float(v), 6) for v in errors[group].mean(0)] for group in groups]
    return LaplacianTable(knots, values)


def log_laplacian_energy(tiles: Tensor) -> Tensor:
    """Return log10 of the mean squared Laplacian of tiles' grey, `[T]` float64.

    Border pixels are not counted; a tile thinner than three pixels has an energy of `MIN_ENERGY`.
    """
    grey = tiles.double().mean(1)
    if min(grey.shape[-2:]) < 3:
        return torch.full((len(grey),), MIN_ENERGY, dtype=torch.float64).log10()
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return ((around - 4 * inner).square().mean((1, 2)) + MIN_ENERGY).log10()
