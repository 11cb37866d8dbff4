"""Bundles: candidates, estimators and a tiling, from which a tile router is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from thinlens.adaptive.candidates import Macs, collect_candidates, count_macs
from thinlens.adaptive.context import RouterContext
from thinlens.adaptive.cost_model import latency_model
from thinlens.adaptive.estimator import (
    ESTIMATOR_MODEL,
    Estimator,
    EstimatorMetrics,
    LearnedEstimator,
)
from thinlens.adaptive.laplacian import LaplacianTable
from thinlens.adaptive.options import RoutingOptions
from thinlens.adaptive.router import TileRouter, check_blend
from thinlens.adaptive.tile_errors import outer_size
from thinlens.checkpoints.format import Checkpoint
from thinlens.errors import UsageError
from thinlens.images.tiles import Tiling
from thinlens.models.fingerprint import settings_text
from thinlens.models.legacy_fingerprint import fingerprints, old_repr
from thinlens.restoration.network import EngineFactory
from thinlens.sparsity.summary import summarize
from thinlens.tasks import make_task
from thinlens.tasks.task import Task

COUNTED_SIZE = (64, 64)
"""Height and width, in pixels, of an input on which parameters are counted."""

USES = ("learned", "laplacian", "cnn")
"""The kinds of estimators: a network that corrects the table of the Laplacian, the table alone, and
a network alone, as in SLS."""


def network_use(use: str) -> str:
    """Return the kind of the network in a bundle that routes by `use`."""
    return "cnn" if use == "cnn" else "learned"


@dataclass(frozen=True, eq=False)
class Bundle:
    """What `adapt` makes and `restore` runs."""

    checkpoints: dict[str, Checkpoint]
    """The candidates by name, the most expensive first, without the fallback."""
    tiling: Tiling
    """How images are cut; margins are what candidates see around a core."""
    exact: bool
    """Whether the margin is all that the candidates need, so that tiles equal the whole image."""
    estimator: nn.Module
    """Trained for these candidates, the fallback last: the correction of `laplacian`, or, where
    `use` is cnn, the estimator of errors itself."""
    laplacian: LaplacianTable
    """Estimates errors from a tile's Laplacian energy."""
    use: str
    """The estimator that routes by default, one of `USES`."""
    metrics: dict[str, EstimatorMetrics]
    """Of both estimators, on held-out tiles."""
    provenance: dict[str, Any]

    @property
    def uses(self) -> tuple[str, str]:
        """The kinds of estimators that the bundle holds: the network's, and the table."""
        return network_use(self.use), "laplacian"

    @property
    def task(self) -> Task:
        """The task of the candidates."""
        return make_task(**next(iter(self.checkpoints.values())).task)

    @property
    def parameters(self) -> int:
        """The parameters of all networks, the estimator's included."""
        shape = (self.task.channels, *COUNTED_SIZE)
        networks = [(c.module, c.patterns) for c in self.checkpoints.values()]
        networks.append((self.estimator, {}))
        return sum(summarize(module, masks, shape).total.params for module, masks in networks)

    def restorer(
        self,
        run: EngineFactory,
        options: RoutingOptions | None = None,
        *,
        blend: int = 0,
        engine: str = "",
    ) -> TileRouter:
        """Return a `Restorer` that selects a candidate for every tile.

        `run` makes the engine of a module; `engine` is its name, under which latencies are cached
        where `options.price` is ms.
        """
        options = options or RoutingOptions()
        if options.price == "ms" and not engine:
            raise UsageError("--price ms: wanted the name of the engine whose latency counts")
        check_blend(blend, self.tiling)
        timed_by = engine if options.price == "ms" else None
        return TileRouter(self.context(run, timed_by=timed_by), options, blend)

    def context(
        self, run: EngineFactory, use: str | None = None, timed_by: str | None = None
    ) -> RouterContext:
        """Return the candidates and the estimator `use`, by default the bundle's, ready to run.

        `timed_by` names the engine that `run` makes: tiles then cost its milliseconds.
        """
        kind, task, size = use or self.use, self.task, outer_size(self.tiling)
        candidates = collect_candidates(self.checkpoints, run, size)
        if [c.name for c in candidates][:-1] != list(self.checkpoints):
            raise UsageError("the candidates of this bundle are not in the order of their costs")
        estimator, macs = self._estimator(kind)
        table = self.laplacian
        tables = settings_text("laplacian", table), old_repr("Laplacian", table, "knots values")
        identities = fingerprints(self.estimator)
        names = tuple(f"{kind} {n} {t}" for n, t in zip(identities, tables, strict=True))
        latency = None
        if timed_by is not None:
            key = f"{timed_by} {names[0]}"
            latency = latency_model(candidates, estimator, size, task.channels, key)
        return RouterContext(
            candidates, estimator, macs, self.tiling, self.exact, task.channels, names, latency
        )

    def _estimator(self, kind: str) -> tuple[Estimator, Macs]:
        """Return an estimator and its multiply-adds by the size of a tile."""
        if kind == "laplacian":
            return self.laplacian, self.laplacian.macs
        checkpoint = Checkpoint(self.estimator, {}, {}, ESTIMATOR_MODEL, {}, {}, 0)
        correction = count_macs(checkpoint, self.task)
        if kind == "cnn":
            return self.estimator, correction

        def macs(size: tuple[int, int]) -> int:
            return correction(size) + self.laplacian.macs(size)

        return LearnedEstimator(self.estimator, self.laplacian), macs
