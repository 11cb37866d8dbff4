"""Least-squares pruning: select masks by second-order importance and refit the kept weights.

No gradients, unless training follows. Layer by layer, the outputs of the dense network (before
the activation) are regressed on the inputs that the pruned network produces, so that every layer,
unpruned ones too, compensates the error of the layers before it (Hassibi & Stork 1993; Frantar &
Alistarh's SparseGPT, 2023).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.methods.large_moments import GramCache, moment_sums, unfolds_alike
from thinlens.methods.least_squares.compensation import (
    NMConstraint,
    dense_solution,
    joint_mask,
    refit,
    second_order_mask,
)
from thinlens.methods.least_squares.gradient_sensitivity import gradient_sensitivities
from thinlens.methods.least_squares.sensitivity import gains, halvings, sensitivities
from thinlens.methods.least_squares.stored_sensitivities import Sensitivities, sensitivities_of
from thinlens.methods.moments import (
    Moments,
    MomentSums,
    Sample,
    after_calls,
    calibration_images,
    collect,
    sample,
)
from thinlens.methods.nm_method import NMMethod, NMPlan
from thinlens.models.copying import copy_network
from thinlens.progress import Progress, Steps
from thinlens.sparsity.allocation import CostTables, allocate, group_sizes
from thinlens.sparsity.layout import (
    PRUNABLE_TYPES,
    PrunableModule,
    canonical,
    from_canonical,
)
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pattern, Pruned
from thinlens.sparsity.tied import tied_layers
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData

ColumnImportance = Literal["joint", "second-order", "magnitude", "activation"]
"""How the kept columns of a layer are selected."""

SENSITIVITY_PIXELS = 80 * 80
"""Input pixels on which the sensitivity of layers is measured. Calibration uses more, but does not
run the network once for every layer and N."""

MOST_SENSITIVITY_WORK = 4e12
"""Multiply-adds, at most, of a measurement of sensitivities that runs the network for every layer
and N: a minute or two of one core. From there on they are estimated from gradients."""

MOST_SHORTAGE = 10.0
"""Columns for every output position, at most, of a layer whose weights are refitted."""

SENSITIVITY_IMPORTANCE: ColumnImportance = "magnitude"
"""The importance with which a layer is pruned for its sensitivity: a tenth of the time of the best
one, and N of equal quality (rfdn-x4 at 1/8 and 1/16)."""


@dataclass(frozen=True, kw_only=True)
class LeastSquares(NMMethod):
    """Keep the N most important of every M weights on calibration images, and refit them."""

    NAME: ClassVar[str] = "least-squares"

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "uniform": {},
        "knapsack": {"allocation": "knapsack"},
    }
    DEFAULT_PRESET: ClassVar[str | None] = "knapsack"

    allocation: Literal["uniform", "knapsack"] = "uniform"
    """Choice of N per layer: uniform, the same fraction of every layer; or knapsack, by the
    sensitivity of layers, which takes one to two times as long as all else."""
    importance: ColumnImportance = "joint"
    """Selection of kept weights: joint (second order, all columns jointly), second-order (column
    after column), magnitude, or activation (abs(w) rms(x))."""
    ridge: float = 0.03
    """Regularisation towards the original weights, in units of the mean square of the inputs."""
    pixels: int = 83_200
    """Least number of input pixels to calibrate on (13 crops of 80x80)."""
    positions: int = 24_000
    """Largest number of output positions of a layer that enter its least squares."""
    seed: int = 0
    """Seed of the calibration batches and the positions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ridge <= 0 or self.pixels < 1 or self.positions < 1:
            raise UsageError("ridge must be above 0, pixels and positions at least 1")

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return the pruned network, fine-tuned if there are steps; `model` is never changed."""
        start = time.monotonic()
        solved = self.solved(model, data, trainer.progress)
        steps = trainer.settings.steps
        if not steps:
            return solved
        module, patterns = self.fine_tuned(solved.module, solved.patterns, data, trainer)
        seconds = time.monotonic() - start
        return Pruned(module, patterns, {**solved.record, "steps": steps, "seconds": seconds})

    @torch.no_grad()
    def solved(
        self, model: nn.Module, data: TrainingData, progress: Progress | None = None
    ) -> Pruned:
        """Return the pruned network in evaluation mode, not trained; `model` is never changed.

        Deterministic: the same data and options give the same network. `progress` is called after
        every layer whose sensitivity is measured, whose outputs are recorded or that is solved.
        """
        start = time.monotonic()
        images = calibration_images(data, self.seed, self.pixels)
        knapsack = self.allocation == "knapsack"
        tables = self.tables(model)
        network = copy_network(model).eval()
        names = solvable_layers(network)
        steps = Steps(progress, total=len(tables) * knapsack + 2 * len(names))
        plan = self._knapsack(model, tables, images, steps) if knapsack else self.plan(model)
        statistics = self._dense_statistics(network, images, names, steps)
        patterns: dict[str, Pattern] = {}
        errors: dict[str, float] = {}

        def solve_layer(name: str, layer: PrunableModule, x: Tensor) -> None:
            layer_statistics = statistics.pop(name, None)
            n, m = plan.n.get(name), plan.m.get(name)
            if layer_statistics is None:
                return  # solved at an earlier call
            if n is not None or patterns:  # a layer before the first pruned one stays as it is
                layer_statistics.sums.add(x, layer_statistics.first)
                mask, errors[name] = self.solve(layer, layer_statistics.sums.moments(), n, m)
                if n is not None:
                    patterns[name] = Pattern(mask, n, m)
            steps.one({"layer error": errors.get(name, 0.0)})

        with _before_calls(network, names, solve_layer):
            network(images)
        patterns = {name: patterns[name] for name in plan.n}
        selection = {"allocation": self.allocation, "importance": self.importance}
        settings = {**selection, "ridge": self.ridge, "positions": self.positions}
        seconds = time.monotonic() - start
        record = {**self.record(plan), **settings, "seed": self.seed, "seconds": seconds}
        return Pruned(network, patterns, {**record, "steps": 0, "layer_errors": errors})

    def _knapsack(
        self, model: nn.Module, tables: CostTables, images: Tensor, steps: Steps
    ) -> NMPlan:
        """Choose N by the output error of the network when a layer alone is pruned and refitted.

        For networks on which that takes long, the error is estimated from gradients.
        """
        m = group_sizes(tables)
        subset = images[: max(1, SENSITIVITY_PIXELS // images[0, 0].numel())]
        estimated = self._sensitivity_work(model, subset) > MOST_SENSITIVITY_WORK

        def measure() -> Sensitivities:
            dense = copy_network(model).eval()
            if estimated:
                return gradient_sensitivities(dense, images, m, self.ridge, self.seed, steps.one)
            moments = collect(dense, tables, images, self.positions, self.seed)
            quick = replace(self, importance=SENSITIVITY_IMPORTANCE)

            def prune_layer(network: nn.Module, name: str, n: int) -> None:
                quick.solve(prunable_layer(network, name), moments[name], n, m[name])

            return sensitivities(dense, subset, tables, prune_layer, steps.one)

        def skip_steps() -> None:
            for _ in tables:
                steps.one()

        options = (tuple(m.items()), self.ridge, self.positions, self.seed, estimated)
        losses = sensitivities_of(model, images, options, measure, skip_steps)
        gains_by_layer = {name: gains(by_n) for name, by_n in losses.items()}
        return NMPlan(allocate(tables, gains_by_layer, self.budget, dict.fromkeys(tables, 1)), m)

    def _sensitivity_work(self, model: nn.Module, images: Tensor) -> float:
        """Return the multiply-adds of all runs of the network and of all refits, about."""
        layers = self.layers(model)
        pixels = images[:, 0].numel() / (self.example[0] * prod(self.example[2:]))
        runs = sum(len(halvings(layer.m)) for layer in layers if layer.prunable and layer.m)
        refits = sum(
            layer.out_channels * (layer.weights / layer.out_channels / 2) ** 3 / 3
            for layer in layers
            if layer.prunable
        )
        return runs * pixels * sum(layer.macs for layer in layers) + refits

    def solve(
        self, layer: PrunableModule, moments: Moments, n: int | None, m: int | None
    ) -> tuple[Tensor, float]:
        """Set the least-squares weights of `layer`; return its mask and its relative error.

        Without `n` and `m` it stays dense and only compensates the layers before it. The error is
        the mean squared output error as a fraction of the outputs' variance.
        """
        groups = len(moments.xx)
        rows = canonical(layer.weight.detach(), layer)
        original = rows.reshape(groups, -1, rows[0].numel()).double()
        shortage = original.shape[-1] / moments.positions
        ridge, few = self.ridge * max(1.0, shortage), shortage > MOST_SHORTAGE
        if n is None or m is None:
            mask = torch.ones_like(original, dtype=torch.bool)
            solved = original if few else dense_solution(moments, original, ridge)
        elif few:
            mask = NMConstraint(n, m, rows.shape[-1]).largest(original.abs())
            solved = original * mask
        else:
            mask = self._mask(moments, original, NMConstraint(n, m, rows.shape[-1]))
            solved = refit(moments, original, mask, ridge)
        layer.weight.copy_(from_canonical(solved.reshape(rows.shape), layer))
        if layer.bias is not None and not few:
            layer.bias.copy_(moments.bias(solved).flatten())
        total = moments.yy.sum().clamp_min(torch.finfo(torch.float64).tiny)
        error = float(moments.error(solved).sum() / total)
        return from_canonical(mask.reshape(rows.shape), layer), max(0.0, error)

    def _mask(self, moments: Moments, original: Tensor, constraint: NMConstraint) -> Tensor:
        """Select the kept columns: bool, shaped as `original` `[g, c, p]`."""
        if self.importance == "magnitude":
            return constraint.largest(original.abs())
        if self.importance == "activation":
            rms = (moments.xx.diagonal(dim1=-2, dim2=-1) + moments.mean_x.square()).sqrt()
            return constraint.largest(original.abs() * rms[:, None])
        choose = joint_mask if self.importance == "joint" else second_order_mask
        ridge = self.ridge * max(1.0, original.shape[-1] / moments.positions)
        return choose(moments, dense_solution(moments, original, ridge), constraint)

    def _dense_statistics(
        self, dense: nn.Module, images: Tensor, names: list[str], steps: Steps
    ) -> dict[str, LayerStatistics]:
        """Run the dense network once and record the outputs of layers at sampled positions."""
        firsts: dict[str, Sample] = {}
        sums: dict[str, MomentSums] = {}
        cache, tied = GramCache(), tied_layers(dense)

        def record(name: str, layer: PrunableModule, x: Tensor, output: Tensor) -> None:
            first = prunable_layer(dense, tied.get(name, name))
            targets = sample(layer, output, self.positions, self.seed)
            name = tied.get(name, name)
            summed = sums.setdefault(name, moment_sums(first, cache))
            if layer is first and name not in firsts:
                firsts[name] = targets
                steps.one()
            elif unfolds_alike(layer, first):
                summed.add(x, _with_bias_of(first, layer, targets))

        with after_calls(dense, [*names, *tied], record):
            dense(images)
        return {name: LayerStatistics(first, sums[name]) for name, first in firsts.items()}


def solvable_layers(network: nn.Module) -> list[str]:
    """Return the names of the layers that are pruned or compensate the ones before them.

    Of layers that share a weight it is the first.
    """
    tied, layers = tied_layers(network), network.named_modules()
    names = [name for name, layer in layers if isinstance(layer, PRUNABLE_TYPES)]
    return [name for name in names if name not in tied]


def _with_bias_of(layer: PrunableModule, other: PrunableModule, targets: Sample) -> Sample:
    """Return the outputs of `other` as if it had the bias of `layer`."""
    if other is layer:
        return targets
    outputs = targets.targets - (0.0 if other.bias is None else other.bias)
    return replace(targets, targets=outputs + (0.0 if layer.bias is None else layer.bias))


@dataclass(frozen=True)
class LayerStatistics:
    """Regression data of one layer."""

    first: Sample
    """Dense outputs of its first call, whose inputs come from the pruned network later."""
    sums: MomentSums
    """Second moments of later calls, if its weight is shared: on the dense network's inputs,
    because those of the pruned network do not exist before the layer is solved."""


@contextmanager
def _before_calls(
    module: nn.Module, names: list[str], act: Callable[[str, PrunableModule, Tensor], None]
) -> Iterator[None]:
    """Call `act(name, layer, input)` before every call of the named layers."""

    def hook(name: str) -> Callable[..., None]:
        return lambda layer, inputs: act(name, layer, inputs[0])

    with ExitStack() as hooks:  # the handle of a torch hook removes it on exit
        for name in names:
            hooks.enter_context(prunable_layer(module, name).register_forward_pre_hook(hook(name)))
        yield
