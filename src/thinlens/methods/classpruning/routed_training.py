"""How is a network trained whose branches a classifier picks from, whatever the branches are?

ClassPruning (Zhou et al., 2022), sections 3.3 and 3.4. No code of it was published. Where the paper
is silent (the weights of equation 7, the costs of equation 5) the comments say what we chose.
Labels come from the variance of the degradation (equations 2, 3) in every task; the paper's
deblurring counts averaged frames.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thinlens.dynamic.branches import Branches
from thinlens.dynamic.routed import Routed
from thinlens.errors import UsageError
from thinlens.methods.classpruning.exchange_rate import check_target, exchange_rate
from thinlens.methods.classpruning.pseudo_labels import measure
from thinlens.methods.classpruning.stages import Joint, Labels, Separate, Weights, batches
from thinlens.methods.classpruning.stages import branch_errors as errors_of
from thinlens.methods.method import Method, check_l1
from thinlens.sparsity.cost import cost
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.prunable import find_layers
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData

STAGES = {"labels": (200, 1e-3, 1e-6), "branches": (500, 1e-4, 1e-6), "joint": (500, 1e-5, 1e-7)}
"""Epochs, first and last learning rate of each stage (section 3.4); a run is cut in their
proportion."""

RUN = {"labels": (1, 1e-3, 1e-6), "branches": (3, 1.0, 0.5), "joint": (6, 0.5, 0.005)}
"""The same at the pace `run`: parts of the run, and of its learning rate where weights are trained,
for 1e-4 and 1e-5 need the paper's 1,000 epochs. Our choice."""

PACES = {"paper": STAGES, "run": RUN}

MEASURED_BATCHES = 50
"""Batches on which the exchange rate, the shares and the batch statistics are measured."""


@dataclass(frozen=True, kw_only=True)
class Dynamic(Method):
    """Train branches and classifier; `budget` is the mean cost that is aimed at, classifier
    included, as a part of the base network's FLOPs."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"scratch": True, "pace": "paper"},
        "plus": {},
    }
    """The paper's, whose branches start from fresh weights, and ours, from those given, at the
    learning rate of the run."""
    DEFAULT_PRESET: ClassVar[str | None] = "plus"
    SETTINGS: ClassVar[tuple[str, ...]] = (
        *("cost_loss", "entropy", "pace", "scratch", "single_stage"),
    )
    """The fields that a checkpoint's record tells."""

    branches: str = "1:4,2:4,4:4"
    """The part of the network's cost that each branch has, the thinnest first."""
    entropy: float = 1e-3
    """w2, times the full branch's error; our choice."""
    cost_loss: bool = True
    """Whether stage 3 weighs cost (L_C, equation 5); without it and `entropy` only L_W is left."""
    scratch: bool = False
    """Whether the network starts from fresh weights."""
    pace: str = "run"
    """Whose learning rate and optimizer train weights: the run's, or the paper's (Adam from 1e-4).
    The classifier's first stage is the paper's in both."""
    single_stage: bool = False
    """Whether to train everything at once from the start: the ablation of Table 3."""

    def __post_init__(self) -> None:
        Branches.of(self.branches)
        check_factors(entropy=self.entropy)
        if self.pace not in PACES:
            raise UsageError(f"pace {self.pace!r}: wanted {' or '.join(PACES)}")

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a network that routes; `model` is never changed.

        Raises `UsageError` where no branch is cheap enough for the budget.
        """
        began, steps, seed = time.monotonic(), trainer.settings.steps, trainer.settings.seed
        if steps < len(STAGES):
            raise UsageError("a classifier trains in stages: wanted a number of --steps")
        check_l1(trainer.settings, "the classifier's part")
        module = self.begun(model, data, trainer)
        costs = self.costs(module)
        check_target(costs, self._target)
        difficulty = measure(data, seed, len(costs))
        seen = batches(data, seed, MEASURED_BATCHES)
        if not self.single_stage:
            self._stage(trainer, "labels").fit(Labels(module, difficulty), data)
            self._stage(trainer, "branches").fit(Separate(module), data)
        weights = self._weights(module, seen, costs)
        whole = round(self.staged * steps)
        last = self._stage(trainer, "joint", whole if self.single_stage else None)
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

    def begun(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Routed:
        """Return the network whose branches and classifier are to be trained."""
        return self.dynamic(model, trainer.settings.seed)

    @property
    def staged(self) -> float:
        """The part of the run that the stages take."""
        return 1.0

    @abstractmethod
    def dynamic(self, model: nn.Module, seed: int) -> Routed:
        """Wrap a copy of `model`, with a fresh classifier; `UsageError` if it has no branches."""

    def costs(self, module: Routed) -> list[float]:
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
        settings = trainer.settings
        stages = PACES[self.pace]
        part, first, last = stages[name]
        share = part / sum(stage[0] for stage in stages.values())
        optimizer = "adam"
        if self.pace == "run" and name != "labels":
            first, last = (x * settings.learning_rate for x in (first, last))
            optimizer = settings.optimizer
            if self.single_stage:
                first = settings.learning_rate
        return trainer.stage(
            name,
            steps=max(1, round(share * self.staged * settings.steps)) if steps is None else steps,
            learning_rate=first,
            floor=last / first,
            schedule="cosine",
            optimizer=optimizer,
            warmup=0,
        )

    def _weights(
        self, module: Routed, seen: list[tuple[Tensor, Tensor]], costs: list[float]
    ) -> Weights:
        """Calibrate equation 7 on the branches as they are."""
        module.rank()
        with torch.no_grad():
            errors = torch.cat([errors_of(module.eval(), *batch) for batch in seen])
        prices = [n / module.branches.m for n in module.branches.kept]
        rate = exchange_rate(errors, prices, costs, self._target) if self.cost_loss else 0.0
        return Weights(self.entropy * float(errors[:, -1].mean()), rate, prices)

    def _outcome(
        self, module: Routed, seen: list[tuple[Tensor, Tensor]], costs: list[float]
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
            "settings": {key: getattr(self, key) for key in self.SETTINGS},
        }


def fresh(network: nn.Module) -> None:
    """Give a network fresh weights, as its layers' own types make them."""
    for part in network.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()  # type: ignore[operator]


def check_factors(**factors: float) -> None:
    """Raise `UsageError` naming the first that is not from 0 to below 1."""
    for name, value in factors.items():
        if not 0 <= value < 1:
            raise UsageError(f"{name} {value}: wanted a factor from 0 to below 1")
