"""ClassPruning: nested sparsities of one network, and a classifier that picks one per image.

Zhou et al., "ClassPruning: Speed Up Image Restoration Networks by Dynamic N:M Pruning" (2022).
Where the paper is silent (SR-STE's lambda, where the weights start) the comments say what we chose.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from thinlens.methods.dynamic import Dynamic, check_factors, fresh
from thinlens.methods.nm import NMMethod
from thinlens.models.class_pruned import ClassPruned, Config
from thinlens.models.routed import Routed
from thinlens.sparsity.branches import Branches
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.ranks import magnitude_ranks


@dataclass(frozen=True, kw_only=True)
class ClassPruning(Dynamic, NMMethod):
    """Train N:M branches of the same weights, and a classifier; `branches` are their patterns."""

    SETTINGS: ClassVar[tuple[str, ...]] = (*Dynamic.SETTINGS, "decay", "shared_norms")

    decay: float = 2e-4
    """SR-STE's lambda; the paper prints none, this is SR-STE's own. 0 is plain STE (Table 4)."""
    shared_norms: bool = False
    """Whether all branches use the same batch norms: the ablation of Table 4."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factors(decay=self.decay)

    def dynamic(self, model: nn.Module, seed: int) -> ClassPruned:
        found = Branches.of(self.branches)
        names = replace(self, m=found.m).tables(model)
        config = Config(
            channels=self.example[1], kept=found.kept, m=found.m, shared_norms=self.shared_norms
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
        return {**super()._outcome(module, *measured), "layers": layers}
