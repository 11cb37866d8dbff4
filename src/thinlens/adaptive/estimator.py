"""Training and evaluation of the estimator of each candidate's error on a tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thinlens.adaptive.laplacian import LaplacianTable
from thinlens.adaptive.tile_errors import TileErrors
from thinlens.models import create
from thinlens.models.running import evaluating
from thinlens.restoration.network import TILE_BATCH, device_of
from thinlens.training.loop import Trainer
from thinlens.training.objective import ForwardFunction, PlainObjective

ESTIMATOR_MODEL = "mse-estimator"
"""Its key in `MODELS`."""

Estimator = Callable[[Tensor], Tensor]
"""Maps tiles `[T, C, h, w]` to log10 of the MSE of every candidate, `[T, n]`."""

TRAINING = {"optimizer": "adam", "learning_rate": 2e-3, "schedule": "cosine"}
"""Training settings other than steps and seed."""

LOSS_KNEE = 0.1
"""beta of the smooth L1 loss, in decades of error; also the weight of the loss of the gains."""

MIN_SPREAD = 1e-4
"""Lower bound on the standard deviation of a gain, in decades."""

SR_STEM, HD_STEM = 1, 4
"""Strides of the first convolution for which an HD result costs the paper's 3.45 GMACs: at a low
resolution of 320x180, and at 1280x720."""

BINS = 10
"""Bins of the calibration curve, of equal numbers of tiles."""


class EstimatorObjective(PlainObjective):
    """Minimise the smooth L1 of log errors and of the gains of each candidate over the next one.

    Routing depends on error *differences* between candidates, which are 100 times smaller than the
    variation over tiles; so each difference is normalised by its standard deviation, `spread`
    `[n - 1]`. Without `spread` the log errors alone count.
    """

    def __init__(self, module: nn.Module, spread: Tensor | None) -> None:
        super().__init__(module)
        self._spread = spread

    def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
        tiles, errors = batch
        estimates = network(tiles)
        loss: Tensor = nn.functional.smooth_l1_loss(estimates, errors, beta=LOSS_KNEE)
        if errors.shape[1] > 1 and self._spread is not None:
            residual = (error_gains(estimates) - error_gains(errors)) / self._spread.to(errors)
            zeros = torch.zeros_like(residual)
            loss = loss + LOSS_KNEE * nn.functional.smooth_l1_loss(residual, zeros)
        return loss


def error_gains(errors: Tensor) -> Tensor:
    """Return the log error of the next cheaper candidate less that of each, `[T, n - 1]`."""
    return errors[:, 1:] - errors[:, :-1]


@dataclass(frozen=True, eq=False)
class LearnedEstimator:
    """A network that adds a correction to the estimates of the Laplacian table."""

    module: nn.Module
    laplacian: LaplacianTable

    def __call__(self, tiles: Tensor) -> Tensor:
        """Map tiles `[T, C, h, w]` to log10 errors `[T, n]`."""
        corrections: Tensor = self.module(tiles)
        return corrections + self.laplacian(tiles).to(corrections)


def train_estimator(samples: TileErrors, laplacian: LaplacianTable, trainer: Trainer) -> nn.Module:
    """Train the correction of a table, which is zero at first; an interrupted run is resumed."""
    settings = trainer.settings
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        count, channels = samples.errors.shape[1], samples.tiles.shape[1]
        module = create(ESTIMATOR_MODEL, candidates=count, channels=channels)
    *_, head = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    # a flipped tile has the same energy
    residual = samples.errors - estimate_errors(laplacian, samples.tiles)
    spread = error_gains(residual).std(0).clamp_min(MIN_SPREAD)
    trainer.fit(EstimatorObjective(module, spread), replace(samples, errors=residual))
    return module.eval()


def train_cnn(samples: TileErrors, stem: int, trainer: Trainer) -> nn.Module:
    """Train a network that estimates log errors alone, as in SLS; an interrupted run is resumed.

    It starts at the mean of every candidate's log errors. The loss, which the paper does not print,
    is the smooth L1 of log errors.
    """
    count, channels = samples.errors.shape[1], samples.tiles.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trainer.settings.seed)
        module = create(ESTIMATOR_MODEL, candidates=count, channels=channels, stem=stem)
    *_, head = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(samples.errors.mean(0))
    trainer.fit(EstimatorObjective(module, None), samples)
    return module.eval()


def estimate_errors(estimator: Estimator, tiles: Tensor) -> Tensor:
    """Return log10 of the estimated errors of tiles, `[T, n]`, in batches."""
    with torch.inference_mode(), evaluating(estimator):
        batches = torch.split(tiles, TILE_BATCH)
        return torch.cat([estimator(batch.to(device_of(estimator))).cpu() for batch in batches])


@dataclass(frozen=True)
class EstimatorMetrics:
    """Quality of an estimator on tiles of held-out images."""

    rank_correlation: list[float]
    """Spearman's, of estimated and true errors of every candidate."""
    gain_correlation: list[float]
    """Spearman's of the ratio of every candidate's error to the last one's, on which routing
    depends; one fewer."""
    bias: list[float]
    """Mean of estimated less true log10 errors of every candidate."""
    error: list[float]
    """Their root mean square."""
    calibration: list[list[list[float]]]
    """For every candidate pairs of mean estimated and mean true log10 error, by tenths."""


def evaluate_estimator(estimator: Estimator, held_out: TileErrors) -> EstimatorMetrics:
    """Compare an estimator with the true errors of tiles."""
    estimates = estimate_errors(estimator, held_out.tiles).double().numpy()
    true = held_out.errors.double().numpy()
    ratios = (x[:, :-1] - x[:, -1:] for x in (estimates, true))
    return EstimatorMetrics(
        rank_correlation=_correlations(estimates, true),
        gain_correlation=_correlations(*ratios),
        bias=_rounded((estimates - true).mean(0)),
        error=_rounded(np.sqrt(((estimates - true) ** 2).mean(0))),
        calibration=[_calibration(x, y) for x, y in zip(estimates.T, true.T, strict=True)],
    )


def spearman(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Return Spearman's rank correlation; 0 where `x` or `y` is constant.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
    1.0
    """
    first, second = average_ranks(x.tolist()), average_ranks(y.tolist())
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def average_ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the rank of every value, ascending from 0.5; ties share the mean of their ranks.

    >>> average_ranks([3.0, 1.0, 3.0]).tolist()
    [1.5, 0.0, 1.5]
    """
    _, inverse, counts = np.unique(np.array(values), return_inverse=True, return_counts=True)
    means = np.cumsum(counts) - (counts + 1) / 2
    return np.asarray(means[inverse], dtype=np.float64)


def _correlations(estimates: NDArray[Any], true: NDArray[Any]) -> list[float]:
    return [round(spearman(x, y), 4) for x, y in zip(estimates.T, true.T, strict=True)]


def _calibration(estimates: NDArray[Any], true: NDArray[Any]) -> list[list[float]]:
    order = np.argsort(estimates, kind="stable")
    bins = [indices for indices in np.array_split(order, BINS) if len(indices)]
    return [_rounded([estimates[indices].mean(), true[indices].mean()]) for indices in bins]


def _rounded(values: Sequence[Any] | NDArray[Any]) -> list[float]:
    return [round(float(value), 4) for value in values]
