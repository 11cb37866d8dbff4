"""SR-STE: train under an N:M mask that is recomputed every step, with decay of pruned weights.

Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch"
(ICLR 2021): the forward pass sees `W m(W)`; the backward pass gives every weight, pruned or not,
the gradient of that product (straight-through estimator), and pruned ones a decay towards 0.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from thinlens.errors import UsageError
from thinlens.methods.nm_method import NMMethod, NMPlan
from thinlens.methods.reset import reset_parameters
from thinlens.models.copying import copy_network
from thinlens.sparsity.layout import PrunableModule
from thinlens.sparsity.masking import mask_weight, prunable_layer, strip
from thinlens.sparsity.pattern import Pattern, Pruned
from thinlens.sparsity.rank_mask import straight_through_mask
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.training.loop import Trainer
from thinlens.training.objective import PlainObjective, TrainingData
from thinlens.training.settings import Settings


@dataclass(frozen=True, kw_only=True)
class SrSte(NMMethod):
    """Keep the N largest of every M at every training step, so that pruned weights can return."""

    NAME: ClassVar[str] = "sr-ste"
    NEEDS_STEPS: ClassVar[bool] = True

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"mode": "gradient", "start": "scratch", "freeze_from": 1.0},
        "plus": {},
    }
    """paper: training from scratch, decay in the gradient. plus, ours: from the dense weights, with
    a decay that the optimizer does not rescale, and masks frozen for the last tenth of the run."""

    DEFAULT_PRESET: ClassVar[str | None] = "plus"

    decay: float = 2e-4
    """Decay of pruned weights: the paper's lambda_W."""
    mode: Literal["gradient", "decoupled"] = "decoupled"
    """gradient: the decay is added to the gradient (the paper; Adam and Muon rescale it).
    decoupled: after a step, pruned weights shrink by learning rate x decay."""
    start: Literal["dense", "scratch"] = "dense"
    """Initial weights: those of the dense network, or new random ones (scratch, the paper)."""
    freeze_from: float = 0.9
    """Fraction of the run after which masks are frozen; 1: never (the paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1:
            raise UsageError(f"decay {self.decay}: wanted a factor from 0 to below 1")
        if not 0 <= self.freeze_from <= 1:
            raise UsageError(f"freeze_from {self.freeze_from}: wanted a part of the run, 0 to 1")

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return the pruned network; `model` is never changed."""
        start, settings = time.monotonic(), trainer.settings
        self.check_steps(settings)
        plan = self.plan(model)
        network = copy_network(model)
        if self.start == "scratch":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)
                reset_parameters(network, strict=True)
        objective = self.objective(network, plan, settings)
        trainer.fit(objective, data)
        module, patterns = strip(network)
        options = {key: getattr(self, key) for key in ("decay", "mode", "start", "freeze_from")}
        seconds = time.monotonic() - start
        record = {"settings": options, "steps": settings.steps, "seconds": seconds}
        return Pruned(module, patterns, {**self.record(plan), **record})

    def objective(self, network: nn.Module, plan: NMPlan, settings: Settings) -> SrSteObjective:
        """Attach masks to the layers of `network`; return the objective that trains it."""
        in_gradient = self.decay if self.mode == "gradient" else 0.0
        for name, n in plan.n.items():
            layer = prunable_layer(network, name)
            mask = DynamicMask(layer, n, plan.m[name], in_gradient)
            mask_weight(network, name, mask)
        return SrSteObjective(network, self, settings)


class DynamicMask(nn.Module):
    """A parametrization that keeps the currently N largest of every M weights."""

    mask: Tensor
    """bool, shaped as the weight: the mask of the latest forward pass."""

    def __init__(self, layer: PrunableModule, n: int, m: int, decay: float) -> None:
        super().__init__()
        self.n, self.m, self.decay, self.frozen = n, m, decay, False
        self.register_buffer("mask", torch.ones_like(layer.weight, dtype=torch.bool))
        self._ranked = partial(magnitude_ranks, module=layer, m=m)

    def update(self, weight: Tensor) -> None:
        """Recompute the mask from `weight`, unless it is frozen."""
        if not self.frozen:
            self.mask.copy_(self._ranked(weight) <= self.n)

    def forward(self, weight: Tensor) -> Tensor:
        self.update(weight)
        return straight_through_mask(weight, self.mask.clone(), self.decay)

    def pattern(self) -> Pattern:
        """Return the pattern of the latest forward pass."""
        return Pattern(self.mask.clone(), self.n, self.m)


class SrSteObjective(PlainObjective):
    """Train under dynamic masks, decay pruned weights, and freeze the masks near the end."""

    def __init__(self, module: nn.Module, method: SrSte, settings: Settings) -> None:
        super().__init__(module, settings.loss)
        self._settings = settings
        self._decay = method.decay if method.mode == "decoupled" else 0.0
        self._freeze_step = round(method.freeze_from * settings.steps)

    def after_step(self, step: int) -> None:
        if self._decay:
            rate = self._settings.learning_rate * self._settings.lr_factor(step - 1)
            with torch.no_grad():
                for weight, mask in self._masked():
                    weight.sub_(rate * self._decay * ~mask.mask * weight)
        if step >= self._freeze_step:
            self._freeze()

    def finish(self) -> None:
        self._freeze()

    def state_dict(self) -> dict[str, Any]:
        return {"frozen": all(mask.frozen for _, mask in self._masked())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for _, mask in self._masked():
            mask.frozen = state["frozen"]

    def _freeze(self) -> None:
        """Recompute the masks once more and freeze them."""
        for weight, mask in self._masked():
            mask.update(weight)
            mask.frozen = True

    def _masked(self) -> list[tuple[Tensor, DynamicMask]]:
        """Return the weight before masking and the mask of every pruned layer."""
        parametrized = [x for x in self.module.modules() if isinstance(x, ParametrizationList)]
        return [(x.original, x[0]) for x in parametrized if isinstance(x[0], DynamicMask)]
