"""What does each of ClassPruning's three stages minimise? (Equations 4 to 7, section 3.3)"""

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
from thinlens.training.objective import Network, Plain, TrainingData

log = logging.getLogger(__name__)

LEAST_WEIGHT = 0.05
"""An image with a smaller share of a branch is none of its images. Branches that saw all images
in training lost up to 1.3 dB when their statistics became those of the images they are given."""
ALARM_STEPS = 1000
"""Steps over which the shares of the classes are watched."""
LEAST_SHARE, LARGEST_SHARE = 0.02, 0.95
"""Shares beyond which the classifier is said to collapse."""
RELIEF = 0.5
"""What the price of cost is multiplied by when all images go to the cheapest branch."""


def branch_errors(module: Routed, image: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute error of every branch on every image, `[B, L]`."""
    return torch.stack([_error(module, image, target, k) for k in range(module.count)], dim=1)


def _error(module: Routed, image: Tensor, target: Tensor, index: int) -> Tensor:
    """Return the mean absolute error of one branch on every image, `[B]`."""
    return (module.branch(image, index) - target).abs().flatten(1).mean(1)


def weighted_errors(module: Routed, image: Tensor, target: Tensor, share: Tensor) -> Tensor:
    """Return L_W of every image, `[B]`: its branches' errors, weighted by its `share` of each.

    A branch sees only the images that count for it, as it will when they are routed: its batch
    statistics are then those of the images it will be given.
    """
    share = share.float()  # a classifier may answer in bf16
    counts = share >= LEAST_WEIGHT
    kept = share * counts
    kept = kept / kept.sum(dim=1, keepdim=True)
    total = share.new_zeros(len(share))
    for index in range(module.count):
        mine = counts[:, index].nonzero().flatten()
        if len(mine):
            errors = _error(module, image[mine], target[mine], index)
            total = total.index_add(0, mine, kept[mine, index] * errors)
    return total


class Labels(Plain):
    """Stage 1: teach the classifier the pseudo labels, by cross-entropy."""

    def __init__(self, module: Routed, difficulty: Difficulty) -> None:
        super().__init__(module)
        self._branched = module
        self._difficulty = difficulty

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self._branched.classifier.parameters()), "lr": learning_rate}]

    def loss(self, network: Network, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, classes = self._difficulty.labelled(*batch)
        if not len(images):  # nothing in this batch is degraded
            return 0 * torch.stack([p.sum() for p in self._branched.classifier.parameters()]).sum()
        logits: Tensor = self._branched.classifier(images)
        return F.cross_entropy(logits, classes)


class Separate(Plain):
    """Stage 2: train all branches by L_W (equation 6); the classifier only weighs them."""

    def __init__(self, module: Routed) -> None:
        super().__init__(module)
        self._branched = module

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": self._branched.restoring(), "lr": learning_rate}]

    def loss(self, network: Network, batch: tuple[Tensor, Tensor]) -> Tensor:
        self._branched.rank()
        self._branched.classifier.eval()
        with torch.no_grad():
            share: Tensor = self._branched.classifier(batch[0]).softmax(dim=1)
        return weighted_errors(self._branched, *batch, share).mean()


@dataclass(frozen=True)
class Weights:
    """The weights of equation 7, of which the paper prints none; that of L_W is 1."""

    entropy: float
    """w2 at the end of the stage; it rises from 0."""
    cost: float
    """w3, the exchange rate."""
    prices: Sequence[float]
    """C of equation 5: the part of the shared layers' cost that every branch has."""


class Joint(Plain):
    """Stage 3: train everything by `L_W + w2 L_E + w3 L_C` (equation 7)."""

    def __init__(
        self, module: Routed, weights: Weights, steps: int, images: Sequence[Tensor]
    ) -> None:
        super().__init__(module)
        self._branched = module
        self.weights = weights
        self.relief = 1.0
        """What w3 is multiplied by, after alarms."""
        self.alarms: list[list[float]] = []
        """Step and shares of every alarm."""
        self._steps, self._done = steps, 0
        self._images = images
        self._counts = torch.zeros(len(weights.prices), dtype=torch.int64)
        self._shares = [0.0] * len(weights.prices)

    def loss(self, network: Network, batch: tuple[Tensor, Tensor]) -> Tensor:
        self._branched.rank()
        logits: Tensor = self._branched.classifier(batch[0])
        chosen = logits.argmax(dim=1).bincount(minlength=logits.shape[1])
        self._counts += chosen.cpu()
        self._shares = (chosen / len(logits)).tolist()
        share = logits.softmax(dim=1)
        restoring = weighted_errors(self._branched, *batch, share)
        prices = share.new_tensor(self.weights.prices)
        ramp = self._done / self._steps
        losses = (
            restoring
            + ramp * self.weights.entropy * entropy(share)
            + self.relief * self.weights.cost * (share * prices).sum(dim=1)
        )
        return losses.mean()

    def after_step(self, step: int) -> None:
        self._done = step
        if step % ALARM_STEPS:
            return
        shares = (self._counts / self._counts.sum()).tolist()
        self._counts.zero_()
        if min(shares) < LEAST_SHARE or max(shares) > LARGEST_SHARE:
            self.alarms.append([step, *shares])
            if shares[0] > LARGEST_SHARE:
                self.relief *= RELIEF
            log.warning("step %d: the classifier collapses, its shares are %s", step, shares)

    def finish(self) -> None:
        self._branched.rank()
        if self._branched.own_norms:  # shared ones hold what all branches made of all images
            recalibrate(self._branched, self._images)

    def metrics(self) -> dict[str, float]:
        return {f"share_{index}": share for index, share in enumerate(self._shares)}

    def state_dict(self) -> dict[str, Any]:
        counts = self._counts.tolist()
        return {"relief": self.relief, "alarms": self.alarms, "done": self._done, "counts": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.relief, self.alarms, self._done = state["relief"], state["alarms"], state["done"]
        self._counts = torch.tensor(state["counts"])


def entropy(share: Tensor) -> Tensor:
    """Return L_E of equation 4 for every image, `[B, L]` to `[B]`, from 0 to log L."""
    by_class: Tensor = torch.special.entr(share)
    return by_class.sum(dim=1)


@torch.no_grad()
def recalibrate(module: Routed, images: Sequence[Tensor]) -> list[int]:
    """Give every branch the batch statistics of the images that are routed to it.

    Training shows a branch images at its border too, routing does not. `images` are batches;
    returns how many went to each branch. A branch that gets none keeps its statistics.
    """
    module.eval()
    place = next(module.parameters()).device
    routed = [(batch.to(place), module.classify(batch.to(place))) for batch in images]
    own = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in own]
    counts = []
    for index in range(module.count):
        mine = [batch[classes == index] for batch, classes in routed]
        mine = [batch for batch in mine if len(batch)]
        counts.append(sum(len(batch) for batch in mine))
        if not mine:
            continue
        for norm in module.norms_of(index):
            norm.reset_running_stats()  # type: ignore[operator]
        for norm in own:
            norm.momentum = None  # the mean over all batches
        module.train()
        for batch in mine:
            module.branch(batch, index)
        module.eval()
    for norm, momentum in zip(own, momenta, strict=True):
        norm.momentum = momentum
    return counts


def batches(data: TrainingData, seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Draw batches to measure on, other crops than those that a run with `seed` trains on."""
    return [data.batch(seed + 1, 0, step) for step in range(count)]
