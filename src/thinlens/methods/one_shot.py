"""One-shot magnitude pruning: keep the largest weights; optionally fine-tune under fixed masks.

Mishra et al., "Accelerating Sparse Deep Neural Networks" (2021), section 4.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from thinlens.methods.nm_method import NMMethod
from thinlens.models.copying import copy_network
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pruned, pattern_from_ranks
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData


@dataclass(frozen=True, kw_only=True)
class OneShot(NMMethod):
    """Keep the N largest of every M weights; fine-tune the kept ones if there are steps."""

    NAME: ClassVar[str] = "one-shot"
    NEEDS_DATA: ClassVar[bool] = False

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return the pruned network; `model` is never changed. The mask is chosen once."""
        start = time.monotonic()
        plan = self.plan(model)
        pruned = copy_network(model)
        patterns = {}
        for name, n in plan.n.items():
            layer = prunable_layer(pruned, name)
            patterns[name] = pattern_from_ranks(
                magnitude_ranks(layer.weight, layer, plan.m[name]), n, plan.m[name]
            )
        module, patterns = self.fine_tuned(pruned, patterns, data, trainer)
        seconds = time.monotonic() - start
        steps = trainer.settings.steps
        return Pruned(module, patterns, {**self.record(plan), "steps": steps, "seconds": seconds})
