"""How far does a tile's detail alone tell what error each candidate will make?

The free rival of the learnt estimator: a table from the mean square of the tile's Laplacian to the
mean log error of the tiles that have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thinlens.adaptive.tile_errors import TileErrors
from thinlens.errors import UsageError

MOST_KNOTS = 32
LEAST_TILES = 8
"""A knot is the mean of as many tiles at least."""

LEAST_DETAIL = 1e-8
"""Added to a mean square before its logarithm."""

MACS_PER_PIXEL = 9
"""Of a grey input pixel: three colours are averaged, five values summed, one squared."""


@dataclass(frozen=True)
class LaplacianTable:
    """Estimates errors by interpolation in log10 of a tile's mean squared Laplacian."""

    knots: list[float]
    """Rising."""
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
        """Return what it costs on a tile of (height, width)."""
        return MACS_PER_PIXEL * size[0] * size[1]


def fit_laplacian(lessons: TileErrors) -> LaplacianTable:
    """Make the table: tiles in the order of their detail, in parts of equal size."""
    x, errors = log_laplacian_energy(lessons.tiles).numpy(), lessons.errors.double().numpy()
    order = np.argsort(x, kind="stable")
    count = max(1, min(MOST_KNOTS, len(order) // LEAST_TILES))
    parts = np.array_split(order, count)
    knots = [round(float(x[part].mean()), 6) for part in parts]
    values = [[round(float(v), 6) for v in errors[part].mean(0)] for part in parts]
    return LaplacianTable(knots, values)


def log_laplacian_energy(tiles: Tensor) -> Tensor:
    """Return log10 of the mean squared Laplacian of tiles' grey, `[T]` float64.

    Inside the tile; one that is thinner than three pixels has none.
    """
    grey = tiles.double().mean(1)
    if min(grey.shape[-2:]) < 3:
        return torch.full((len(grey),), LEAST_DETAIL, dtype=torch.float64).log10()
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return ((around - 4 * inner).square().mean((1, 2)) + LEAST_DETAIL).log10()
