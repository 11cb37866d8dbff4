"""ClassPruning: nested N:M branches of one network and a classifier that selects one per image.

Zhou et al., "ClassPruning: Speed Up Image Restoration Networks by Dynamic N:M Pruning" (2022).
Where the paper is silent (SR-STE's lambda, where the weights start) the comments say what we chose.
"""

from __future__ import annotations

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
from thinlens.methods.classpruning.routed_training import RoutedTraining, check_factors
from thinlens.methods.nm_method import NMMethod
from thinlens.methods.reset import reset_parameters
from thinlens.methods.sls.method import Sls
from thinlens.models.copying import copy_network
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData


@dataclass(frozen=True, kw_only=True)
class ClassPruning(RoutedTraining, NMMethod):
    """Train nested N:M branches of the same weights, and a classifier to select one per image."""

    NAME: ClassVar[str] = "classpruning"
    GROUPED: ClassVar[bool] = False

    SETTINGS: ClassVar[tuple[str, ...]] = (
        *RoutedTraining.SETTINGS,
        "decay",
        "search",
        "shared_norms",
    )

    decay: float = 2e-4
    """SR-STE's lambda, with SR-STE's default; the paper has none. 0 is plain STE (Table 4)."""
    shared_norms: bool = False
    """Whether all branches use the same batch norms: the ablation of Table 4."""
    search: float = 0.0
    """Fraction of the run in which SLS searches N of every layer and branch, with the
    branch's N / M as its budget; 0: the same N in every layer, as the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factors(decay=self.decay, search=self.search)

    def build(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> ClassPruned:
        searched = None
        if steps := round(self.search * trainer.settings.steps):
            searched = self._searched(model, data, trainer.stage("search", steps=steps))
        return self.wrap(model, trainer.settings.seed, searched)

    @property
    def staged_fraction(self) -> float:
        return 1 - self.search

    def _searched(
        self, model: nn.Module, data: TrainingData, trainer: Trainer
    ) -> dict[str, tuple[int, ...]]:
        """Return N by layer, for every branch: one search records N at all branch budgets."""
        branches = Branches.of(self.branches)
        budgets = [
            Budget.parse(Fraction(n, branches.m)) for n in reversed(branches.kept) if n < branches.m
        ]
        shared = self.shared() | {"budget": budgets[-1], "m": branches.m}
        sls = Sls.preset(
            "plus", **shared, search_until=1.0, start_budget_factor=0.0, least_squares=False
        )
        n_by_budget = sls.n_at_budgets(model, data, trainer, budgets)
        by_branch = [
            *reversed(n_by_budget),
            *([dict.fromkeys(n_by_budget[0], branches.m)] * branches.full),
        ]
        return {name: tuple(n[name] for n in by_branch) for name in n_by_budget[0]}

    def wrap(
        self, model: nn.Module, seed: int, searched: Mapping[str, tuple[int, ...]] | None = None
    ) -> ClassPruned:
        branches = Branches.of(self.branches)
        names = replace(self, m=branches.m).tables(model)
        config = ClassPrunedConfig(
            channels=self.example[1],
            kept=branches.kept,
            m=branches.m,
            shared_norms=self.shared_norms,
            searched=json.dumps(searched) if searched else "{}",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = copy_network(model)
            if self.scratch:
                reset_parameters(network)
            module = ClassPruned(config, network)
        layers = {name: prunable_layer(network, name) for name in names}
        ranks = {k: magnitude_ranks(x.weight, x, branches.m) for k, x in layers.items()}
        module.set_ranks(ranks)
        module.decay = self.decay
        return module

    def _routing_record(self, module: Routed, *measured: Any) -> dict[str, Any]:
        pruned = module.pruned if isinstance(module, ClassPruned) else ()
        layers = {name: [None, module.branches.m] for name in pruned}
        pattern = {"layers": layers, "searched": module.config.n()}
        return {**super()._routing_record(module, *measured), **pattern}
