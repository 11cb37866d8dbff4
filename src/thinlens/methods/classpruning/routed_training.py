"""Training of a routed network: branches of one network and a classifier that selects one.

ClassPruning (Zhou et al., 2022), sections 3.3 and 3.4. No code of it was published. Where the paper
is silent (the weights of equation 7, the costs of equation 5) the comments say what we chose.
Labels come from the variance of the degradation (equations 2, 3), or from the number of averaged
frames of a video (equation 1), as in the paper's deblurring.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from thinlens.dynamic.branches import Branches
from thinlens.dynamic.routed import Routed
from thinlens.errors import UsageError
from thinlens.methods.classpruning.exchange_rate import check_target, exchange_rate
from thinlens.methods.classpruning.pseudo_labels import Difficulty, measure_difficulty
from thinlens.methods.classpruning.stages import (
    LEAST_SHARE,
    BranchStage,
    JointStage,
    LabelStage,
    LossWeights,
    measurement_batches,
)
from thinlens.methods.classpruning.stages import branch_errors as errors_of
from thinlens.methods.method import BudgetBase, Method, check_l1
from thinlens.sparsity.cost import cost
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.prunable import find_layers
from thinlens.tasks.crops import Crops
from thinlens.tasks.frame_averages import FrameAverages, frame_counts
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData

PAPER_STAGES = {
    "labels": (200, 1e-3, 1e-6),
    "branches": (500, 1e-4, 1e-6),
    "joint": (500, 1e-5, 1e-7),
}
"""Epochs, first and last learning rate of each stage (section 3.4); a run is divided in their
proportion."""

RUN_STAGES = {"labels": (1, 1e-3, 1e-6), "branches": (3, 1.0, 0.5), "joint": (6, 0.5, 0.005)}
"""The same for `stage_rates` run: fractions of the run, and of its learning rate where weights are
trained, for 1e-4 and 1e-5 need the paper's 1,000 epochs. Our choice."""

STAGE_SCHEDULES = {"paper": PAPER_STAGES, "run": RUN_STAGES}

CALIBRATION_BATCHES = 50
"""Batches on which the exchange rate, the shares and the batch statistics are measured."""


@dataclass(frozen=True, kw_only=True)
class RoutedTraining(Method):
    """Train branches and a classifier; `budget` is the target mean cost of an image, classifier
    included, as a fraction of the base network's FLOPs."""

    NEEDS_STEPS: ClassVar[bool] = True
    BUDGET_BASE: ClassVar[BudgetBase] = "base_flops"
    GROUPED: ClassVar[bool] = False
    ROUTED: ClassVar[bool] = True
    NOT_FLAGS: ClassVar[tuple[str, ...]] = (*Method.NOT_FLAGS, "m")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "branches": "1:4,2:4,4:4",
            "scratch": True,
            "stage_rates": "paper",
            "least_share": 0.0,
            "stabilized": False,
        },
        "plus": {},
    }
    """paper: branches trained from scratch by equations 6 and 7 alone. plus, ours: from the dense
    weights, at the learning rate of the run, a branch on the images that are routed to it."""
    DEFAULT_PRESET: ClassVar[str | None] = "plus"
    TRAINING_PRESETS: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
        "paper": {"": {"batch_size": 32, "optimizer": "adam", "warmup": 0, "precision": "fp32"}}
    }
    """Section 3.4. Rates and schedules are those of `stage_rates`, and --steps is divided in the
    proportion of its 200, 500 and 500 epochs; it names no patch."""
    SETTINGS: ClassVar[tuple[str, ...]] = (
        *("cost_loss", "entropy", "stage_rates", "scratch", "single_stage"),
        *("least_share", "stabilized", "label_frames"),
    )
    """The options that a checkpoint's record holds."""

    branches: str = "1:4,2:4,4:4"
    """N:M of every branch, the sparsest first; N / M is its fraction of the network's cost."""
    entropy: float = 1e-3
    """w2 of equation 7, relative to the full branch's error; our choice."""
    cost_loss: bool = True
    """Whether stage 3 includes the cost term L_C (equation 5); without it and `entropy` its loss is
    L_W alone."""
    scratch: bool = False
    """Whether to train from scratch, with new random weights."""
    stage_rates: Literal["run", "paper"] = "run"
    """Learning rates and optimizer of the weights: the run's, or the paper's (Adam from 1e-4). The
    first stage, of the classifier, is the paper's in both."""
    single_stage: bool = False
    """Whether to train everything at once from the start: the ablation of Table 3."""
    least_share: float = LEAST_SHARE
    """Least share of an image, by the classifier, with which it trains a branch; 0: every image
    trains all branches (equation 6, the paper)."""
    stabilized: bool = True
    """Whether w2 increases from 0, w3 is halved when all images go to the cheapest branch, and each
    branch gets the batch statistics of its images at last. False: the paper, which has none."""
    label_frames: str = ""
    """Numbers of averaged sharp frames of the classes, such as 3,5,9 (equation 1, the paper's
    deblurring): the training images are then frames of videos. Empty: labels by variance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Branches.of(self.branches)
        check_factors(entropy=self.entropy, least_share=self.least_share)
        if self.label_frames:
            frame_counts(self.label_frames)

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a routed network; `model` is never changed.

        Raises `UsageError` where no branch is cheap enough for the budget.
        """
        start, steps, seed = time.monotonic(), trainer.settings.steps, trainer.settings.seed
        if steps < len(PAPER_STAGES):
            raise UsageError("a classifier trains in stages: wanted a number of --steps")
        check_l1(trainer.settings, "the classifier's part")
        module = self.build(model, data, trainer)
        costs = self.costs(module)
        check_target(costs, self._target)
        difficulty, labelled = self._labels(data, seed, len(costs))
        samples = measurement_batches(data, seed, CALIBRATION_BATCHES)
        if not self.single_stage:
            self._stage(trainer, "labels").fit(LabelStage(module, difficulty), labelled)
            self._stage(trainer, "branches").fit(BranchStage(module, self.least_share), data)
        weights = self._weights(module, samples, costs)
        whole = round(self.staged_fraction * steps)
        last = self._stage(trainer, "joint", whole if self.single_stage else None)
        joint = JointStage(module, weights, last.settings.steps, [image for image, _ in samples])
        last.fit(joint, data)
        record = {
            **self._routing_record(module, samples, costs),
            "label_variances": list(difficulty.variances) if difficulty else [],
            "exchange_rate": weights.cost * joint.penalty_scale,
            "alarms": joint.collapse_events,
            "steps": steps,
            "seconds": time.monotonic() - start,
        }
        return Pruned(module.eval(), {}, record)

    def _labels(
        self, data: TrainingData, seed: int, classes: int
    ) -> tuple[Difficulty | None, TrainingData]:
        """Return what labels the pairs of a batch, or None, and the batches of stage 1."""
        if not self.label_frames:
            return measure_difficulty(data, seed, classes), data
        counts = frame_counts(self.label_frames)
        if len(counts) != classes:
            raise UsageError(f"label_frames {self.label_frames}: wanted {classes} numbers")
        if not isinstance(data, Crops):
            raise UsageError("label_frames: wanted a folder of videos as data")
        return None, FrameAverages(data, counts)

    def settle_budget(self, model: nn.Module, milliseconds: Fraction, threads: int) -> Self:
        """Raise `UsageError`: the mean cost of routed images is in FLOPs alone."""
        return Method.settle_budget(self, model, milliseconds, threads)

    def build(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Routed:
        """Return the routed network to be trained."""
        return self.wrap(model, trainer.settings.seed)

    @property
    def staged_fraction(self) -> float:
        """Fraction of the run that the stages take."""
        return 1.0

    @abstractmethod
    def wrap(self, model: nn.Module, seed: int) -> Routed:
        """Wrap a copy of `model` with a new classifier; `UsageError` if it has no branches."""

    def costs(self, module: Routed) -> list[float]:
        """Return the cost of each branch with the classifier, as a fraction of the base network."""
        layers = find_layers(module.network, self.example)
        base = cost(module.network, self.example, layers, {}, "classpruning").flops or 1
        classifier_layers = find_layers(module.classifier, self.example)
        extra = (
            cost(module.classifier, self.example, classifier_layers, {}, "classpruning").flops or 0
        )
        return [(one + extra) / base for one in module.flops(self.example)]

    @property
    def _target(self) -> float:
        return float(self.budget.kept)

    def _stage(self, trainer: Trainer, name: str, steps: int | None = None) -> Trainer:
        settings = trainer.settings
        stages = STAGE_SCHEDULES[self.stage_rates]
        length, first, last = stages[name]
        fraction = length / sum(stage[0] for stage in stages.values())
        optimizer = "adam"
        if self.stage_rates == "run" and name != "labels":
            first, last = (x * settings.learning_rate for x in (first, last))
            optimizer = settings.optimizer
            if self.single_stage:
                first = settings.learning_rate
        return trainer.stage(
            name,
            steps=max(1, round(fraction * self.staged_fraction * settings.steps))
            if steps is None
            else steps,
            learning_rate=first,
            floor=last / first,
            schedule="cosine",
            optimizer=optimizer,
            warmup=0,
        )

    def _weights(
        self, module: Routed, samples: list[tuple[Tensor, Tensor]], costs: list[float]
    ) -> LossWeights:
        """Calibrate the weights of equation 7 on the current branches."""
        module.update_ranks()
        with torch.no_grad():
            errors = torch.cat([errors_of(module.eval(), *batch) for batch in samples])
        branch_costs = [n / module.branches.m for n in module.branches.kept]
        rate = exchange_rate(errors, branch_costs, costs, self._target) if self.cost_loss else 0.0
        entropy_weight = self.entropy * float(errors[:, -1].mean())
        return LossWeights(entropy_weight, rate, branch_costs, self.least_share, self.stabilized)

    def _routing_record(
        self, module: Routed, samples: list[tuple[Tensor, Tensor]], costs: list[float]
    ) -> dict[str, Any]:
        """Return the provenance entries on where images are routed."""
        with torch.no_grad():
            classes = torch.cat([module.classify(image) for image, _ in samples])
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


def check_factors(**factors: float) -> None:
    """Raise `UsageError` naming the first that is not from 0 to below 1."""
    for name, value in factors.items():
        if not 0 <= value < 1:
            raise UsageError(f"{name} {value}: wanted a factor from 0 to below 1")
