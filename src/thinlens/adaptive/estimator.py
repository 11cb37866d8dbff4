"""How is it learnt what error each candidate will make on a tile, and how well is it known?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thinlens.adaptive.laplacian import LaplacianTable
from thinlens.adaptive.tile_errors import TILE_BATCH, TileErrors
from thinlens.models import create
from thinlens.report.search import places
from thinlens.restoration.network import device_of, evaluating
from thinlens.training.loop import Trainer
from thinlens.training.objective import Network, Plain

NAME = "mse-estimator"
"""Its key in `MODELS`."""

Estimator = Callable[[Tensor], Tensor]
"""Maps tiles `[T, C, h, w]` to log10 of the MSE of every candidate, `[T, n]`."""

SETTINGS = {"optimizer": "adam", "learning_rate": 2e-3, "schedule": "cosine"}

KNEE = 0.1
"""Where the loss goes from squares to magnitudes, in decades; also what a gain that is missed by
its spread weighs."""

LEAST_SPREAD = 1e-4
"""Decades: finer differences between candidates are not learnt."""

BINS = 10
"""Of the calibration: a tenth of the tiles each."""


class EstimatorObjective(Plain):
    """Minimise the smooth L1 of log errors and of what each candidate gains on the next cheaper.

    Both rules choose by these gains. Those of thin networks on another are a hundredth of what
    tiles differ by, so each is weighed by its `spread` `[n - 1]` over the tiles.
    """

    def __init__(self, module: nn.Module, spread: Tensor) -> None:
        super().__init__(module)
        self._spread = spread

    def loss(self, network: Network, batch: tuple[Tensor, Tensor]) -> Tensor:
        tiles, errors = batch
        found = network(tiles)
        loss: Tensor = nn.functional.smooth_l1_loss(found, errors, beta=KNEE)
        if errors.shape[1] > 1:
            missed = (gains(found) - gains(errors)) / self._spread.to(errors)
            loss = loss + KNEE * nn.functional.smooth_l1_loss(missed, torch.zeros_like(missed))
        return loss


def gains(errors: Tensor) -> Tensor:
    """Return how much larger the log error of the next cheaper candidate is, `[T, n - 1]`."""
    return errors[:, 1:] - errors[:, :-1]


@dataclass(frozen=True, eq=False)
class LearnedEstimator:
    """A network that corrects what a tile's detail tells of its errors."""

    module: nn.Module
    laplacian: LaplacianTable

    def __call__(self, tiles: Tensor) -> Tensor:
        """Map tiles `[T, C, h, w]` to log10 errors `[T, n]`."""
        corrections: Tensor = self.module(tiles)
        return corrections + self.laplacian(tiles).to(corrections)


def train_estimator(lessons: TileErrors, laplacian: LaplacianTable, trainer: Trainer) -> nn.Module:
    """Train the corrections of a table, from none on; a killed run goes on where it was."""
    settings = trainer.settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        count, channels = lessons.errors.shape[1], lessons.tiles.shape[1]
        module = create(NAME, candidates=count, channels=channels)
    for name in ("judge.weight", "judge.bias"):
        nn.init.zeros_(module.get_parameter(name))
    # a turned tile has the same detail
    missing = lessons.errors - estimate_errors(laplacian, lessons.tiles)
    spread = gains(missing).std(0).clamp_min(LEAST_SPREAD)
    trainer.fit(EstimatorObjective(module, spread), replace(lessons, errors=missing))
    return module.eval()


def estimate_errors(estimator: Estimator, tiles: Tensor) -> Tensor:
    """Return an estimator's answers `[T, n]`, some tiles at a time."""
    with torch.inference_mode(), evaluating(estimator):
        parts = [
            estimator(some.to(device_of(estimator))).cpu() for some in torch.split(tiles, TILE_BATCH)
        ]
    return torch.cat(parts)


@dataclass(frozen=True)
class EstimatorMetrics:
    """How well an estimator knows the tiles of images that did not teach it."""

    rank_correlation: list[float]
    """Spearman's, of estimated and true errors of every candidate."""
    gain_correlation: list[float]
    """The same of the ratio of every candidate's error to the last one's, by which tiles are
    routed; one fewer."""
    bias: list[float]
    """Mean of estimated less true log10 errors of every candidate."""
    error: list[float]
    """Their root mean square."""
    calibration: list[list[list[float]]]
    """Of every candidate: pairs of mean estimated and mean true log10 error, by tenths."""


def evaluate_estimator(estimator: Estimator, held_out: TileErrors) -> EstimatorMetrics:
    """Compare an estimator with the true errors of tiles."""
    found = estimate_errors(estimator, held_out.tiles).double().numpy()
    true = held_out.errors.double().numpy()
    gains = (x[:, :-1] - x[:, -1:] for x in (found, true))
    return EstimatorMetrics(
        rank_correlation=_correlations(found, true),
        gain_correlation=_correlations(*gains),
        bias=_rounded((found - true).mean(0)),
        error=_rounded(np.sqrt(((found - true) ** 2).mean(0))),
        calibration=[_calibration(x, y) for x, y in zip(found.T, true.T, strict=True)],
    )


def spearman(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return Spearman's rank correlation; 0 where one of them does not vary."""
    first, second = places(x.tolist()), places(y.tolist())
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _correlations(found: NDArray[Any], true: NDArray[Any]) -> list[float]:
    return [round(spearman(x, y), 4) for x, y in zip(found.T, true.T, strict=True)]


def _calibration(found: NDArray[Any], true: NDArray[Any]) -> list[list[float]]:
    order = np.argsort(found, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return [_rounded([found[part].mean(), true[part].mean()]) for part in parts]


def _rounded(values: Sequence[Any] | NDArray[Any]) -> list[float]:
    return [round(float(value), 4) for value in values]
