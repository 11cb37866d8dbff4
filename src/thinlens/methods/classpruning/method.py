"""ClassPruning: nested sparsities of one network, and a classifier that picks one per image.

Zhou et al., "ClassPruning: Speed Up Image Restoration Networks by Dynamic N:M Pruning" (2022).
Where the paper is silent (SR-STE's lambda, where the weights start) the comments say what we chose.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import nn

from thinlens.dynamic.branches import Branches
from thinlens.dynamic.nm_branches import ClassPruned, ClassPrunedConfig
from thinlens.dynamic.routed import Routed
from thinlens.methods.classpruning.routed_training import Dynamic, check_factors, fresh
from thinlens.methods.nm_method import NMMethod
from thinlens.methods.sls.method import Sls
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData


@dataclass(frozen=True, kw_only=True)
class ClassPruning(Dynamic, NMMethod):
    """Train N:M branches of the same weights, and a classifier; `branches` are their patterns."""

    SETTINGS: ClassVar[tuple[str, ...]] = (*Dynamic.SETTINGS, "decay", "search", "shared_norms")

    decay: float = 2e-4
    """SR-STE's lambda; the paper prints none, this is SR-STE's own. 0 is plain STE (Table 4)."""
    shared_norms: bool = False
    """Whether all branches use the same batch norms: the ablation of Table 4."""
    search: float = 0.0
    """The part of the run in which SLS searches N by layer for every branch, whose N/M is then its
    budget; 0: the same N in every layer, as the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factors(decay=self.decay, search=self.search)

    def begun(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> ClassPruned:
        searched = None
        if steps := round(self.search * trainer.settings.steps):
            searched = self._searched(model, data, trainer.stage("search", steps=steps))
        return self.dynamic(model, trainer.settings.seed, searched)

    @property
    def staged(self) -> float:
        return 1 - self.search

    def _searched(
        self, model: nn.Module, data: TrainingData, trainer: Trainer
    ) -> dict[str, tuple[int, ...]]:
        """Return N by layer, of every branch: one search comes past the budgets of all."""
        found = Branches.of(self.branches)
        budgets = [Budget.of(Fraction(n, found.m)) for n in reversed(found.kept) if n < found.m]
        shared = self.shared() | {"budget": budgets[-1], "m": found.m}
        sls = Sls.preset("plus", **shared, search_until=1.0, knapsack=0.0, least_squares=False)
        passed = sls.passed(model, data, trainer, budgets)
        by_branch = [*reversed(passed), *([dict.fromkeys(passed[0], found.m)] * found.full)]
        return {name: tuple(n[name] for n in by_branch) for name in passed[0]}

    def dynamic(
        self, model: nn.Module, seed: int, searched: Mapping[str, tuple[int, ...]] | None = None
    ) -> ClassPruned:
        found = Branches.of(self.branches)
        names = replace(self, m=found.m).tables(model)
        config = ClassPrunedConfig(
            channels=self.example[1],
            kept=found.kept,
            m=found.m,
            shared_norms=self.shared_norms,
            searched=json.dumps(searched) if searched else "{}",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = copy.deepcopy(model)
            if self.scratch:
                fresh(network)
            module = ClassPruned(config, network)
        layers = {name: prunable_layer(network, name) for name in names}
        ranks = {k: magnitude_ranks(x.weight, x, found.m) for k, x in layers.items()}
        module.set_ranks(ranks)
        module.decay = self.decay
        return module

    def _outcome(self, module: Routed, *measured: Any) -> dict[str, Any]:
        pruned = module.pruned if isinstance(module, ClassPruned) else ()
        layers = {name: [None, module.branches.m] for name in pruned}
        found = {"layers": layers, "searched": module.config.n()}
        return {**super()._outcome(module, *measured), **found}
