"""ClassPruning: nested sparsities of one network, and a classifier that picks one per image.

Zhou et al., "ClassPruning: Speed Up Image Restoration Networks by Dynamic N:M Pruning" (2022).
No code of it was published. Where the paper is silent (the weights of equation 7, the costs of
equation 5, where the weights start) the comments say what we chose. Labels come from the variance
of the degradation (equations 2, 3) in every task; the paper's deblurring counts averaged frames.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.methods.classpruning_stages import Joint, Labels, Separate, Weights, batches
from thinlens.methods.classpruning_stages import branch_errors as errors_of
from thinlens.methods.exchange import check_target, exchange_rate
from thinlens.methods.method import Pruned, check_l1
from thinlens.methods.nm import NMMethod
from thinlens.methods.pseudo_labels import measure
from thinlens.models.class_pruned import ClassPruned, Config
from thinlens.sparsity.branches import Branches
from thinlens.sparsity.cost import cost
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.prunable import find_layers
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData

STAGES = {"labels": (200, 1e-3, 1e-6), "branches": (500, 1e-4, 1e-6), "joint": (500, 1e-5, 1e-7)}
"""Epochs, first and last learning rate of each stage (section 3.4); a run is cut in their
proportion."""

MEASURED_BATCHES = 50
"""Batches on which the exchange rate, the shares and the batch statistics are measured."""


@dataclass(frozen=True, kw_only=True)
class ClassPruning(NMMethod):
    """Train branches and classifier; `budget` is the mean cost that is aimed at, classifier
    included, as a part of the base network's FLOPs."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"scratch": True}, "plus": {}}
    """The paper's, whose branches start from fresh weights, and ours, from those given."""
    DEFAULT_PRESET: ClassVar[str | None] = "plus"

    branches: str = "1:4,2:4,4:4"
    decay: float = 2e-4
    """SR-STE's lambda; the paper prints none, this is SR-STE's own."""
    entropy: float = 1e-3
    """w2, times the full branch's error; our choice."""
    scratch: bool = False
    """Whether the network starts from fresh weights."""
    single_stage: bool = False
    """Whether to train everything at once from the start: the ablation of Table 3."""

    def __post_init__(self) -> None:
        Branches.of(self.branches)
        for key in ("decay", "entropy"):
            if not 0 <= getattr(self, key) < 1:
                raise UsageError(f"{key} {getattr(self, key)}: wanted a factor from 0 to below 1")

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a network that routes; `model` is never changed.

        Raises `UsageError` where no branch is cheap enough for the budget.
        """
        began, steps, seed = time.monotonic(), trainer.settings.steps, trainer.settings.seed
        if steps < len(STAGES):
            raise UsageError("classpruning trains in three stages: wanted a number of --steps")
        check_l1(trainer.settings, "the classifier's part")
        module = self.dynamic(model, seed)
        costs = self.costs(module)
        check_target(costs, self._target)
        difficulty = measure(data, seed, len(costs))
        seen = batches(data, seed, MEASURED_BATCHES)
        if not self.single_stage:
            self._stage(trainer, "labels").fit(Labels(module, difficulty), data)
            self._stage(trainer, "branches").fit(Separate(module), data)
        weights = self._weights(module, seen, costs)
        last = self._stage(trainer, "joint", steps if self.single_stage else None)
        joint = Joint(module, weights, last.settings.steps, [image for image, _ in seen])
        last.fit(joint, data)
        record = {
            **self._outcome(module, seen, costs),
            "label_variances": list(difficulty.variances),
            "exchange_rate": weights.cost * joint.relief,
            "alarms": joint.alarms,
            "steps": steps,
            "seconds": time.monotonic() - began,
        }
        return Pruned(module.eval(), {}, record)

    def dynamic(self, model: nn.Module, seed: int) -> ClassPruned:
        """Wrap a copy of `model`, with a fresh classifier; `UsageError` if nothing is prunable."""
        found = Branches.of(self.branches)
        names = replace(self, m=found.m).tables(model)
        config = Config(channels=self.example[1], kept=found.kept, m=found.m)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = copy.deepcopy(model)
            if self.scratch:
                for part in network.modules():
                    if hasattr(part, "reset_parameters"):
                        part.reset_parameters()  # type: ignore[operator]
            module = ClassPruned(config, network)
        layers = {name: prunable_layer(network, name) for name in names}
        ranks = {k: magnitude_ranks(x.weight, x, found.m) for k, x in layers.items()}
        module.set_ranks(ranks)
        module.decay = self.decay
        return module

    def costs(self, module: ClassPruned) -> list[float]:
        """Return what each branch and the classifier cost, as a part of the base network."""
        layers = find_layers(module.network, self.example)
        base = cost(module.network, self.example, layers, {}, "classpruning").flops or 1
        judge = find_layers(module.classifier, self.example)
        extra = cost(module.classifier, self.example, judge, {}, "classpruning").flops or 0
        return [(one + extra) / base for one in module.flops(self.example)]

    @property
    def _target(self) -> float:
        return float(self.budget.kept)

    def _stage(self, trainer: Trainer, name: str, steps: int | None = None) -> Trainer:
        epochs, first, last = STAGES[name]
        share = epochs / sum(stage[0] for stage in STAGES.values())
        return trainer.stage(
            name,
            steps=max(1, round(share * trainer.settings.steps)) if steps is None else steps,
            learning_rate=first,
            floor=last / first,
            schedule="cosine",
            optimizer="adam",
            warmup=0,
        )

    def _weights(
        self, module: ClassPruned, seen: list[tuple[Tensor, Tensor]], costs: list[float]
    ) -> Weights:
        """Calibrate equation 7 on the branches as they are."""
        module.rank()
        with torch.no_grad():
            errors = torch.cat([errors_of(module.eval(), *batch) for batch in seen])
        prices = [n / module.branches.m for n in module.branches.kept]
        rate = exchange_rate(errors, prices, costs, self._target)
        return Weights(self.entropy * float(errors[:, -1].mean()), rate, prices)

    def _outcome(
        self, module: ClassPruned, seen: list[tuple[Tensor, Tensor]], costs: list[float]
    ) -> dict[str, Any]:
        """Return what is remembered of where images go now."""
        with torch.no_grad():
            classes = torch.cat([module.classify(image) for image, _ in seen])
        shares = (classes.bincount(minlength=len(costs)) / len(classes)).tolist()
        return {
            "budget": str(self.budget),
            "budget_base": "base_flops",
            "achieved": sum(share * one for share, one in zip(shares, costs, strict=True)),
            "branches": self.branches,
            "branch_costs": costs,
            "shares": shares,
            "layers": {name: [None, module.branches.m] for name in module.pruned},
            "settings": {
                key: getattr(self, key) for key in ("decay", "entropy", "scratch", "single_stage")
            },
        }
