"""Least-squares pruning: choose what lives by second order, and solve for what it should be.

No gradients, unless training follows. Layer by layer, the pruned network's own inputs are
regressed on the dense network's answers before the activation, so every layer, a dense one too,
repairs what the layers before it broke (Hassibi & Stork 1993; Frantar & Alistarh's SparseGPT,
2023).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.methods.least_squares.compensation import (
    Rule,
    dense_solution,
    joint_mask,
    refit,
    second_order_mask,
)
from thinlens.methods.least_squares.sensitivity import gains, sensitivities
from thinlens.methods.moments import (
    Moments,
    MomentSums,
    Sample,
    calibration_images,
    sample,
)
from thinlens.methods.nm_method import NMMethod, Plan
from thinlens.sparsity.allocation import allocate, group_sizes
from thinlens.sparsity.layout import (
    PRUNABLE_TYPES,
    PrunableModule,
    canonical,
    from_canonical,
)
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pattern, Pruned
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData

SALIENCIES = ("joint", "second-order", "magnitude", "activation")

ALLOCATIONS = ("uniform", "knapsack")

JUDGED_PIXELS = 80 * 80
"""Input pixels on which a knapsack weighs what each layer loses: calibration takes more, but does
not run the network once for every layer and N."""

WEIGHED_BY = "magnitude"
"""The saliency with which it prunes a layer to that end: a tenth of the time of the best one, and
N that do as well (rfdn-x4 at 1/8 and 1/16)."""


@dataclass(frozen=True, kw_only=True)
class LeastSquares(NMMethod):
    """Keep the N weights of every M that matter most on calibration images, and refit them."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "uniform": {},
        "knapsack": {"allocation": "knapsack"},
    }
    DEFAULT_PRESET: ClassVar[str | None] = "knapsack"

    allocation: str = "uniform"
    """How N is chosen: uniform, the same part of every layer; or knapsack, by what the network
    loses where a layer alone is pruned, which takes as long again as all else, or twice."""
    saliency: str = "joint"
    """How kept weights are chosen: joint (second order, all columns against each other),
    second-order (column after column), magnitude, or activation (abs(w) rms(x))."""
    ridge: float = 0.03
    """Pull towards the original weights, as a share of the mean square of a layer's inputs."""
    pixels: int = 83_200
    """Input pixels to calibrate on, at least (13 crops of 80x80)."""
    positions: int = 24_000
    """Output positions of a layer that enter its least squares, at most."""
    seed: int = 0
    """Draws the calibration batches and the positions."""

    def __post_init__(self) -> None:
        if self.saliency not in SALIENCIES:
            raise UsageError(f"saliency {self.saliency!r}: wanted {', '.join(SALIENCIES)}")
        if self.allocation not in ALLOCATIONS:
            raise UsageError(f"allocation {self.allocation!r}: wanted {' or '.join(ALLOCATIONS)}")
        if self.ridge <= 0 or self.pixels < 1 or self.positions < 1:
            raise UsageError("ridge must be above 0, pixels and positions at least 1")

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a thin network, fine-tuned for the trainer's steps; `model` is never changed."""
        start = time.monotonic()
        solved = self.solved(model, data)
        steps = trainer.settings.steps
        if not steps:
            return solved
        module, patterns = self.fine_tuned(solved.module, solved.patterns, data, trainer)
        seconds = time.monotonic() - start
        return Pruned(module, patterns, {**solved.record, "steps": steps, "seconds": seconds})

    @torch.no_grad()
    def solved(self, model: nn.Module, data: TrainingData) -> Pruned:
        """Return a thin network in evaluation mode, without training; `model` is never changed.

        The same data and settings give the same network.
        """
        start = time.monotonic()
        images = calibration_images(data, self.seed, self.pixels)
        knapsack = self.allocation == "knapsack"
        plan = self._knapsack(model, images) if knapsack else self.plan(model)
        thin = copy.deepcopy(model).eval()
        names = [name for name, layer in thin.named_modules() if isinstance(layer, PRUNABLE_TYPES)]
        lessons = self._dense_answers(thin, images, names)
        patterns: dict[str, Pattern] = {}
        errors: dict[str, float] = {}

        def settle(name: str, layer: PrunableModule, x: Tensor) -> None:
            lesson = lessons.pop(name, None)
            n, m = plan.n.get(name), plan.m.get(name)
            if lesson is None or (n is None and not patterns):
                return  # settled by an earlier call, or nothing before it is broken yet
            lesson.sums.add(x, lesson.first)
            mask, errors[name] = self.solve(layer, lesson.sums.moments(), n, m)
            if n is not None:
                patterns[name] = Pattern(mask, n, m)

        with _before_calls(thin, names, settle):
            thin(images)
        patterns = {name: patterns[name] for name in plan.n}
        chosen = {"allocation": self.allocation, "saliency": self.saliency}
        settings = {**chosen, "ridge": self.ridge, "positions": self.positions}
        seconds = time.monotonic() - start
        record = {**self.record(plan), **settings, "seed": self.seed, "seconds": seconds}
        return Pruned(thin, patterns, {**record, "steps": 0, "layer_errors": errors})

    def _knapsack(self, model: nn.Module, images: Tensor) -> Plan:
        """Choose N by what the network loses where a layer alone is pruned and solved."""
        tables = self.tables(model)
        m = group_sizes(tables)
        dense = copy.deepcopy(model).eval()
        sums = {name: MomentSums(prunable_layer(dense, name)) for name in tables}

        def gather(name: str, layer: PrunableModule, x: Tensor, output: Tensor) -> None:
            sums[name].add(x, sample(layer, output, self.positions, self.seed))

        with _after_calls(dense, list(tables), gather):
            dense(images)
        moments = {name: found.moments() for name, found in sums.items()}
        quick = replace(self, saliency=WEIGHED_BY)

        def thin(network: nn.Module, name: str, n: int) -> None:
            quick.solve(prunable_layer(network, name), moments[name], n, m[name])

        judged = images[: max(1, JUDGED_PIXELS // images[0, 0].numel())]
        lost = sensitivities(dense, judged, tables, thin)
        bought = {name: gains(losses) for name, losses in lost.items()}
        return Plan(allocate(tables, bought, self.budget, dict.fromkeys(tables, 1)), m)

    def solve(
        self, layer: PrunableModule, moments: Moments, n: int | None, m: int | None
    ) -> tuple[Tensor, float]:
        """Give `layer` the weights that answer best; return its mask and its error.

        Without `n` and `m` it stays dense and only repairs what the layers before it broke. The
        error is the mean square of what its answers miss, as a part of their variance.
        """
        groups = len(moments.xx)
        rows = canonical(layer.weight.detach(), layer)
        original = rows.reshape(groups, -1, rows[0].numel()).double()
        if n is None or m is None:
            mask = torch.ones_like(original, dtype=torch.bool)
            solved = dense_solution(moments, original, self.ridge)
        else:
            mask = self._mask(moments, original, Rule(n, m, rows.shape[-1]))
            solved = refit(moments, original, mask, self.ridge)
        layer.weight.copy_(from_canonical(solved.reshape(rows.shape), layer))
        if layer.bias is not None:
            layer.bias.copy_(moments.bias(solved).flatten())
        total = moments.yy.sum().clamp_min(torch.finfo(torch.float64).tiny)
        error = float(moments.error(solved).sum() / total)
        return from_canonical(mask.reshape(rows.shape), layer), max(0.0, error)

    def _mask(self, moments: Moments, original: Tensor, rule: Rule) -> Tensor:
        """Choose the kept columns: bool, as `original` `[g, c, p]`."""
        if self.saliency == "magnitude":
            return rule.largest(original.abs())
        if self.saliency == "activation":
            rms = (moments.xx.diagonal(dim1=-2, dim2=-1) + moments.mean_x.square()).sqrt()
            return rule.largest(original.abs() * rms[:, None])
        choose = joint_mask if self.saliency == "joint" else second_order_mask
        return choose(moments, dense_solution(moments, original, self.ridge), rule)

    def _dense_answers(
        self, dense: nn.Module, images: Tensor, names: list[str]
    ) -> dict[str, Lesson]:
        """Run the dense network once and note what every layer answers at sampled positions."""
        lessons: dict[str, Lesson] = {}

        def note(name: str, layer: PrunableModule, x: Tensor, output: Tensor) -> None:
            drawn = sample(layer, output, self.positions, self.seed)
            if name in lessons:
                lessons[name].sums.add(x, drawn)
            else:
                lessons[name] = Lesson(drawn, MomentSums(layer))

        with _after_calls(dense, names, note):
            dense(images)
        return lessons


@dataclass(frozen=True)
class Lesson:
    """What one layer has to learn."""

    first: Sample
    """The dense answers of its first call, whose inputs the pruned network will give."""
    sums: MomentSums
    """Its later calls, if its weight is shared: with the dense network's inputs, because those
    of the pruned network do not exist before the layer is settled."""


@contextmanager
def _after_calls(
    module: nn.Module,
    names: list[str],
    act: Callable[[str, PrunableModule, Tensor, Tensor], None],
) -> Iterator[None]:
    """Call `act(name, layer, input, output)` after every call of the named layers."""

    def hook(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: act(name, layer, inputs[0], output)

    with ExitStack() as hooks:  # a torch hook's handle takes it off again when left
        for name in names:
            hooks.enter_context(prunable_layer(module, name).register_forward_hook(hook(name)))
        yield


@contextmanager
def _before_calls(
    module: nn.Module, names: list[str], act: Callable[[str, PrunableModule, Tensor], None]
) -> Iterator[None]:
    """Call `act(name, layer, input)` before every call of the named layers."""

    def hook(name: str) -> Callable[..., None]:
        return lambda layer, inputs: act(name, layer, inputs[0])

    with ExitStack() as hooks:  # a torch hook's handle takes it off again when left
        for name in names:
            hooks.enter_context(prunable_layer(module, name).register_forward_pre_hook(hook(name)))
        yield
