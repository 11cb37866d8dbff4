"""SR-STE: train under an N:M mask that is chosen anew every step, and pull pruned weights to 0.

Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch"
(ICLR 2021): the forward pass sees `W m(W)`; the backward pass gives every weight, pruned or not,
the gradient of that product (straight through), and pruned ones a decay towards 0.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList

from thinlens.errors import UsageError
from thinlens.methods.nm_method import NMMethod, Plan
from thinlens.sparsity.layout import PrunableModule
from thinlens.sparsity.masking import prunable_layer, strip
from thinlens.sparsity.pattern import Pattern, Pruned
from thinlens.sparsity.ranks import magnitude_ranks
from thinlens.sparsity.straight_through import masked
from thinlens.training.loop import Trainer
from thinlens.training.objective import Plain, TrainingData
from thinlens.training.settings import Settings

MODES = ("gradient", "decoupled")
STARTS = ("dense", "scratch")


@dataclass(frozen=True, kw_only=True)
class SrSte(NMMethod):
    """Keep the same part of every layer; which weights live is decided while they train."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"mode": "gradient", "start": "scratch", "freeze_from": 1.0},
        "plus": {},
    }
    """The paper's, and ours: from the network as it is, with a decay that the optimizer does not
    rescale, and a mask that stays for the last tenth."""

    DEFAULT_PRESET: ClassVar[str | None] = "plus"

    decay: float = 2e-4
    """The paper's lambda_W."""
    mode: str = "decoupled"
    """gradient: the decay is added to the gradient (the paper; Adam and Muon rescale it);
    decoupled: after a step, pruned weights shrink by learning rate x decay."""
    start: str = "dense"
    """dense: the weights that are given; scratch: fresh ones (the paper)."""
    freeze_from: float = 0.9
    """The part of the run after which masks stay; 1: never (the paper)."""

    def __post_init__(self) -> None:
        for key, known in (("mode", MODES), ("start", STARTS)):
            if getattr(self, key) not in known:
                raise UsageError(f"{key} {getattr(self, key)!r}: wanted {' or '.join(known)}")
        if not 0 <= self.decay < 1:
            raise UsageError(f"decay {self.decay}: wanted a factor from 0 to below 1")
        if not 0 <= self.freeze_from <= 1:
            raise UsageError(f"freeze_from {self.freeze_from}: wanted a part of the run, 0 to 1")

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a thin network; `model` is never changed."""
        began, settings = time.monotonic(), trainer.settings
        if settings.steps < 1:
            raise UsageError("sr-ste prunes while it trains: wanted a number of steps (--steps)")
        plan = self.plan(model)
        thin = copy.deepcopy(model)
        if self.start == "scratch":
            renew(thin, settings.seed)
        objective = self.objective(thin, plan, settings)
        trainer.fit(objective, data)
        module, patterns = strip(thin)
        own = {key: getattr(self, key) for key in ("decay", "mode", "start", "freeze_from")}
        record = {"settings": own, "steps": settings.steps, "seconds": time.monotonic() - began}
        return Pruned(module, patterns, {**self.record(plan), **record})

    def objective(self, thin: nn.Module, plan: Plan, settings: Settings) -> SparseRefined:
        """Give the layers of `thin` their masks; return what trains it."""
        in_gradient = self.decay if self.mode == "gradient" else 0.0
        for name, n in plan.n.items():
            layer = prunable_layer(thin, name)
            mask = MovingMask(layer, n, plan.m[name], in_gradient)
            parametrize.register_parametrization(layer, "weight", mask, unsafe=True)
        return SparseRefined(thin, self, settings)


class MovingMask(nn.Module):
    """A parametrization that keeps the N largest of every M, whichever these are now."""

    mask: Tensor
    """bool, shaped as the weight: the mask of the newest forward pass."""

    def __init__(self, layer: PrunableModule, n: int, m: int, decay: float) -> None:
        super().__init__()
        self.n, self.m, self.decay, self.frozen = n, m, decay, False
        self.register_buffer("mask", torch.ones_like(layer.weight, dtype=torch.bool))
        self._ranked = partial(magnitude_ranks, module=layer, m=m)

    def move(self, weight: Tensor) -> None:
        """Let the N largest of every M live, unless the mask is frozen."""
        if not self.frozen:
            self.mask.copy_(self._ranked(weight) <= self.n)

    def forward(self, weight: Tensor) -> Tensor:
        self.move(weight)
        return masked(weight, self.mask.clone(), self.decay)

    def pattern(self) -> Pattern:
        """The pattern of the newest forward pass."""
        return Pattern(self.mask.clone(), self.n, self.m)


class SparseRefined(Plain):
    """Train under moving masks, shrink pruned weights, and freeze the masks in time."""

    def __init__(self, module: nn.Module, method: SrSte, settings: Settings) -> None:
        super().__init__(module, settings.loss)
        self._settings = settings
        self._decay = method.decay if method.mode == "decoupled" else 0.0
        self._last_move = round(method.freeze_from * settings.steps)

    def after_step(self, step: int) -> None:
        if self._decay:
            rate = self._settings.learning_rate * self._settings.rate(step - 1)
            with torch.no_grad():
                for weight, mask in self._masked():
                    weight.sub_(rate * self._decay * ~mask.mask * weight)
        if step >= self._last_move:
            self._freeze()

    def finish(self) -> None:
        self._freeze()

    def state_dict(self) -> dict[str, Any]:
        return {"frozen": all(mask.frozen for _, mask in self._masked())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for _, mask in self._masked():
            mask.frozen = state["frozen"]

    def _freeze(self) -> None:
        """Let the masks be those of the weights as they are now."""
        for weight, mask in self._masked():
            mask.move(weight)
            mask.frozen = True

    def _masked(self) -> list[tuple[Tensor, MovingMask]]:
        """Return every masked weight as it is underneath, and its mask."""
        worn = [x for x in self.module.modules() if isinstance(x, ParametrizationList)]
        return [(x.original, x[0]) for x in worn if isinstance(x[0], MovingMask)]


def renew(module: nn.Module, seed: int) -> None:
    """Give every layer fresh weights and statistics, as its own type makes them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, layer in module.named_modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(layer.parameters(recurse=False), None) is not None:
                raise UsageError(
                    f"{name or 'the network'} is a {type(layer).__name__} that cannot make fresh "
                    "weights (reset_parameters): wanted the dense start"
                )
