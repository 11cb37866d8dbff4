"""Training objectives of ClassPruning's three stages (section 3.3, equations 4 to 7)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thinlens.dynamic.routed import Routed
from thinlens.methods.classpruning.pseudo_labels import Difficulty
from thinlens.training.objective import ForwardFunction, PlainObjective, TrainingData

log = logging.getLogger(__name__)

LEAST_SHARE = 0.05
"""Default of the softmax weight from which an image trains a branch. Branches trained on all images
lost up to 1.3 dB when their batch statistics became those of the images routed to them."""
COLLAPSE_CHECK_STEPS = 1000
"""Steps over which the fractions of images by class are averaged."""
MIN_SHARE, MAX_SHARE = 0.02, 0.95
"""Fractions of images by class beyond which the classifier is considered collapsed."""
PENALTY_RELIEF = 0.5
"""Factor of the cost term's weight when all images go to the cheapest branch."""


def branch_errors(module: Routed, image: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute error of every branch on every image, `[B, L]`."""
    return torch.stack(
        [_error(module, image, target, k) for k in range(module.num_branches)], dim=1
    )


def _error(module: Routed, image: Tensor, target: Tensor, index: int) -> Tensor:
    """Return the mean absolute error of one branch on every image, `[B]`."""
    return (module.branch(image, index) - target).abs().flatten(1).mean(1)


def weighted_errors(
    module: Routed, image: Tensor, target: Tensor, share: Tensor, least_share: float = LEAST_SHARE
) -> Tensor:
    """Return L_W of every image, `[B]`: its branches' errors, weighted by its `share` of each.

    A branch processes only the images with a share of at least `least_share`, as in routing: its
    batch statistics are then those of the images that are routed to it; the other shares are scaled
    to a sum of 1. At 0 every image passes through all branches: equation 6.
    """
    share = share.float()  # a classifier may answer in bf16
    if least_share == 0:
        return (share * branch_errors(module, image, target)).sum(dim=1)
    counts = share >= least_share
    kept = share * counts
    kept = kept / kept.sum(dim=1, keepdim=True)
    total = share.new_zeros(len(share))
    for index in range(module.num_branches):
        selected = counts[:, index].nonzero().flatten()
        if len(selected):
            errors = _error(module, image[selected], target[selected], index)
            total = total.index_add(0, selected, kept[selected, index] * errors)
    return total


class LabelStage(PlainObjective):
    """Stage 1: train the classifier on the pseudo labels by cross-entropy.

    Labels are made of the pairs of a batch by `difficulty`; without it a batch is images and their
    classes (`tasks.frame_averages`).
    """

    def __init__(self, module: Routed, difficulty: Difficulty | None) -> None:
        super().__init__(module)
        self._branched = module
        self._difficulty = difficulty

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self._branched.classifier.parameters()), "lr": learning_rate}]

    def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, classes = self._difficulty.labelled(*batch) if self._difficulty else batch
        if not len(images):  # nothing in this batch is degraded
            return 0 * torch.stack([p.sum() for p in self._branched.classifier.parameters()]).sum()
        logits: Tensor = self._branched.classifier(images)
        return F.cross_entropy(logits, classes)


class BranchStage(PlainObjective):
    """Stage 2: train all branches by L_W (equation 6), weighted by the fixed classifier."""

    def __init__(self, module: Routed, least_share: float = LEAST_SHARE) -> None:
        super().__init__(module)
        self._branched = module
        self._least_share = least_share

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": self._branched.restoration_parameters(), "lr": learning_rate}]

    def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
        self._branched.update_ranks()
        self._branched.classifier.eval()
        with torch.no_grad():
            share: Tensor = self._branched.classifier(batch[0]).softmax(dim=1)
        return weighted_errors(self._branched, *batch, share, self._least_share).mean()


@dataclass(frozen=True)
class LossWeights:
    """The weights of equation 7, of which the paper prints none; that of L_W is 1."""

    entropy: float
    """w2, at the end of the stage where it increases from 0."""
    cost: float
    """w3, the exchange rate."""
    branch_costs: Sequence[float]
    """C of equation 5: the fraction of the shared layers' cost of every branch."""
    least_share: float = LEAST_SHARE
    """Of `weighted_errors`."""
    stabilized: bool = True
    """Whether w2 increases from 0, w3 is halved when all images go to the cheapest branch, and each
    branch at last gets the batch statistics of its images; else equation 7 alone counts."""


class JointStage(PlainObjective):
    """Stage 3: train everything by `L_W + w2 L_E + w3 L_C` (equation 7)."""

    def __init__(
        self, module: Routed, weights: LossWeights, steps: int, images: Sequence[Tensor]
    ) -> None:
        super().__init__(module)
        self._branched = module
        self.weights = weights
        self.penalty_scale = 1.0
        """Factor of w3, reduced at collapse events."""
        self.collapse_events: list[list[float]] = []
        """Step and class fractions of every collapse event."""
        self._steps, self._done = steps, 0
        self._images = images
        self._counts = torch.zeros(len(weights.branch_costs), dtype=torch.int64)
        self._shares = [0.0] * len(weights.branch_costs)

    def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
        self._branched.update_ranks()
        logits: Tensor = self._branched.classifier(batch[0])
        chosen = logits.argmax(dim=1).bincount(minlength=logits.shape[1])
        self._counts += chosen.cpu()
        self._shares = (chosen / len(logits)).tolist()
        share = logits.softmax(dim=1)
        restoring = weighted_errors(self._branched, *batch, share, self.weights.least_share)
        branch_costs = share.new_tensor(self.weights.branch_costs)
        ramp = self._done / self._steps if self.weights.stabilized else 1.0
        losses = (
            restoring
            + ramp * self.weights.entropy * entropy(share)
            + self.penalty_scale * self.weights.cost * (share * branch_costs).sum(dim=1)
        )
        return losses.mean()

    def after_step(self, step: int) -> None:
        self._done = step
        if step % COLLAPSE_CHECK_STEPS:
            return
        shares = (self._counts / self._counts.sum()).tolist()
        self._counts.zero_()
        if min(shares) < MIN_SHARE or max(shares) > MAX_SHARE:
            self.collapse_events.append([step, *shares])
            if shares[0] > MAX_SHARE and self.weights.stabilized:
                self.penalty_scale *= PENALTY_RELIEF
            log.warning("step %d: the classifier collapses, its shares are %s", step, shares)

    def finish(self) -> None:
        self._branched.update_ranks()
        if self._branched.separate_norms and self.weights.stabilized:  # shared: over all images
            recalibrate(self._branched, self._images)

    def metrics(self) -> dict[str, float]:
        return {f"share_{index}": share for index, share in enumerate(self._shares)}

    def state_dict(self) -> dict[str, Any]:
        counts = self._counts.tolist()
        return {
            "relief": self.penalty_scale,
            "alarms": self.collapse_events,
            "done": self._done,
            "counts": counts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.penalty_scale, self.collapse_events, self._done = (
            state["relief"],
            state["alarms"],
            state["done"],
        )
        self._counts = torch.tensor(state["counts"])


def entropy(share: Tensor) -> Tensor:
    """Return L_E of equation 4 for every image, `[B, L]` to `[B]`, from 0 to log L."""
    by_class: Tensor = torch.special.entr(share)
    return by_class.sum(dim=1)


@torch.no_grad()
def recalibrate(module: Routed, images: Sequence[Tensor]) -> list[int]:
    """Give every branch the batch statistics of the images that are routed to it.

    In training a branch also processes images near its decision boundary, in routing not.
    `images` are batches; returns how many went to each branch. A branch without images keeps
    its statistics.
    """
    module.eval()
    device = next(module.parameters()).device
    routed = [(batch.to(device), module.classify(batch.to(device))) for batch in images]
    norms = [x for x in module.modules() if isinstance(x, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    counts = []
    for index in range(module.num_branches):
        selected = [batch[classes == index] for batch, classes in routed]
        selected = [batch for batch in selected if len(batch)]
        counts.append(sum(len(batch) for batch in selected))
        if not selected:
            continue
        for norm in module.branch_norms(index):
            norm.reset_running_stats()  # type: ignore[operator]
        for norm in norms:
            norm.momentum = None  # the mean over all batches
        module.train()
        for batch in selected:
            module.branch(batch, index)
        module.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return counts


def measurement_batches(data: TrainingData, seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Draw batches to measure on, other crops than those that a run with `seed` trains on."""
    return [data.batch(seed + 1, 0, step) for step in range(count)]
