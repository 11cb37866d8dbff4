"""ASSL: prune the channels whose filters an increasing L2 penalty has shrunk during training.

Zhang et al., "Aligned Structured Sparsity Learning for Efficient Image Super-Resolution"
(NeurIPS 2021), in its style: the structured baseline that FMP compares with. Every filter has a
scale (weight normalisation). An alignment term makes layers that share channels agree on the small
ones; then an L2 penalty with an increasing coefficient shrinks the selected ones, and they are
removed. As in the paper the initial network is a trained one. Ours are the lengths, which are
fractions of a run of any length, the coefficient of the alignment and its centred form; channels
are selected and removed as `filter` does, in a coupled group the same for all layers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from thinlens.errors import UsageError
from thinlens.methods.channels.filter import Filter, named_tensors, remove_channels
from thinlens.methods.channels.order import coupled_groups, filter_norms, output_ids
from thinlens.methods.method import refuse_parametrized
from thinlens.models.copying import copy_network
from thinlens.sparsity.channels import CoupledChannels, trace_channels
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.prunable import find_layers
from thinlens.sparsity.resize_parameters import resize_parameters
from thinlens.training.loop import Trainer
from thinlens.training.objective import ForwardFunction, PlainObjective, TrainingData

MAX_COEFFICIENT = 0.5
"""Final coefficient of the penalty (official code)."""

RAMP_FRACTION = 0.7
"""Fraction of the penalty stage in which it increases: 100,000 of 143,150 iterations (official
code)."""


@dataclass(frozen=True, kw_only=True)
class Assl(Filter):
    """Align the scales of filters, penalise and remove the smallest channels; then fine-tune."""

    NAME: ClassVar[str] = "assl"
    NEEDS_STEPS: ClassVar[bool] = True
    NEEDS_DATA: ClassVar[bool] = True

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    DEFAULT_PRESET: ClassVar[str | None] = None

    alignment: float = 1e-2
    """Coefficient of the alignment; at the default the term is about as large as an L1 loss."""
    align_until: float = 0.1
    """Fraction of the run at which alignment ends."""
    press_until: float = 0.4
    """Fraction of the run at which the penalised channels are removed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flavour != "safe":
            raise UsageError(f"flavour {self.flavour!r}: assl has safe alone")
        if not 0 < self.align_until < self.press_until < 1:
            raise UsageError("wanted 0 < align_until < press_until < 1")
        if not 0 <= self.alignment < float("inf"):
            raise UsageError(f"alignment {self.alignment}: wanted a finite number from 0 up")

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a smaller network of the same class; `model` is never changed."""
        start, steps = time.monotonic(), trainer.settings.steps
        self.check_steps(trainer.settings)
        layers = [layer.name for layer in find_layers(model, self.example)]
        refuse_parametrized(model, layers)
        channels = trace_channels(model, self.example)
        pruned, _ = self.choose(model, channels)  # checks the budget; fixes how many are pruned
        scaled = ScaledNetwork(model, channels, layers)
        ends = [
            max(1, round(fraction * steps)) for fraction in (self.align_until, self.press_until)
        ]
        aligning = AlignmentObjective(scaled, pruned, self.alignment)
        _stage(trainer, "align", ends[0]).fit(aligning, data)
        pruned, _ = self.choose(scaled.merged(), channels)
        penalty_steps = max(1, ends[1] - ends[0])
        penalty = PenaltyObjective(scaled, pruned, penalty_steps)
        _stage(trainer, "press", penalty_steps).fit(penalty, data)
        merged = scaled.merged()
        norms = filter_norms(merged, channels, 2)
        smaller = remove_channels(merged, channels, pruned)
        achieved = self.kept(model, channels, pruned)
        remaining = steps - ends[0] - penalty_steps
        if remaining > 0:
            _stage(trainer, "tune", remaining).fit(PlainObjective(smaller), data)
        record = {
            "budget": str(self.budget),
            "budget_base": self.metric,
            "achieved": float(achieved),
            "widths": {
                name: list(prunable_layer(smaller, name).weight.shape[:2]) for name in layers
            },
            "pressed": _mean(norms, pruned) / max(_mean(norms, set(norms) - set(pruned)), 1e-12),
            "obstacles": channels.unprunable_ops,
            "steps": steps,
            "seconds": time.monotonic() - start,
        }
        return Pruned(smaller.eval(), {}, record)

    def scores(self, model: nn.Module, channels: CoupledChannels) -> dict[int, float]:
        """Return the L2 norms of filters, which are their scales."""
        return filter_norms(model, channels, 2)


class ScaledNetwork:
    """A copy of a network in which every prunable filter has a scale (weight normalisation)."""

    def __init__(self, model: nn.Module, channels: CoupledChannels, layers: Sequence[str]) -> None:
        self.model, self.channels = model, channels
        self.module = copy_network(model)
        self.layers = [name for name in layers if f"{name}.weight" in channels.output_axes]
        for name in self.layers:
            layer = prunable_layer(self.module, name)
            weight_norm(layer, "weight", dim=channels.output_axes[f"{name}.weight"])

    def channel_ids(self, name: str) -> Tensor:
        """Return the channel ids of a layer's filters."""
        return output_ids(self.channels, f"{name}.weight")

    def scales(self, name: str) -> Tensor:
        """Return the scales of a layer's filters."""
        return self.module.get_parameter(f"{name}.parametrizations.weight.original0").flatten()

    def bias(self, name: str) -> Tensor | None:
        """Return the biases of a layer, if it has one for each filter."""
        bias = prunable_layer(self.module, name).bias
        return bias if bias is not None and len(bias) == len(self.channel_ids(name)) else None

    def merged(self) -> nn.Module:
        """Return the network with scales and directions multiplied into plain weights."""
        plain = copy_network(self.model)
        tensors = {}
        for name in named_tensors(plain):
            layer, _, kind = name.rpartition(".")
            tensors[name] = getattr(self.module.get_submodule(layer), kind).detach().clone()
        resize_parameters(plain, tensors)
        return plain


class AlignmentObjective(PlainObjective):
    """Maximise the agreement of layers that share channels on which of them are small."""

    def __init__(self, scaled: ScaledNetwork, pruned: list[int], coefficient: float) -> None:
        super().__init__(scaled.module)
        self._scaled, self._coefficient = scaled, coefficient
        groups = coupled_groups(scaled.channels)
        self._shared = [self._sharing(group, set(pruned)) for group in groups]

    def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
        return super().loss(network, batch) - self._coefficient * self.agreement()

    def agreement(self) -> Tensor:
        """Return the mean of S S^T, S being 1 at a layer's large scales and -1 at its small ones,
        over all coupled groups of several layers.

        In the paper the small ones are 0: then the gradient raises every scale, which under Adam
        moves all equally and changes nothing.
        """
        terms = []
        for layers, count in self._shared:
            if len(layers) < 2:
                continue
            rows = torch.stack([self._scaled.scales(name)[order] for name, order in layers])
            border = rows.detach().sort(dim=1).values[:, count].unsqueeze(1)
            signs = torch.tanh((rows - border) / 2)  # 2 sigmoid - 1
            terms.append((signs @ signs.T).mean() / rows.shape[1])
        return torch.stack(terms).mean() if terms else torch.zeros(())

    def _sharing(self, group: list[int], pruned: set[int]) -> tuple[list[tuple[str, Tensor]], int]:
        """Return the layers whose filters are exactly a group's channels, each with the order of
        its filters, and how many of the channels are pruned."""
        layers = []
        for name in self._scaled.layers:
            ids = self._scaled.channel_ids(name)
            if sorted(ids.tolist()) == group:
                layers.append((name, ids.argsort()))
        return layers, sum(channel in pruned for channel in group)


class PenaltyObjective(PlainObjective):
    """Penalise the scales and biases of the selected channels with an increasing coefficient."""

    def __init__(self, scaled: ScaledNetwork, pruned: list[int], steps: int) -> None:
        super().__init__(scaled.module)
        self._scaled, self._steps, self._step = scaled, steps, 0
        ids = torch.tensor(sorted(pruned), dtype=torch.int64)
        selected = {name: torch.isin(scaled.channel_ids(name), ids) for name in scaled.layers}
        self._selected = {name: mask for name, mask in selected.items() if mask.any()}

    @property
    def coefficient(self) -> float:
        """The coefficient of the next step."""
        return MAX_COEFFICIENT * min(1.0, (self._step + 1) / (RAMP_FRACTION * self._steps))

    def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
        return super().loss(network, batch) + self.coefficient / 2 * self.squared_norm()

    def squared_norm(self) -> Tensor:
        """Return the sum of the squared scales and biases of the selected channels."""
        terms = []
        for name, mask in self._selected.items():
            bias = self._scaled.bias(name)
            selected = mask.to(self._scaled.scales(name).device)
            terms.append(self._scaled.scales(name)[selected].square().sum())
            terms += [] if bias is None else [bias[selected].square().sum()]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    def after_step(self, step: int) -> None:
        self._step = step

    def metrics(self) -> dict[str, float]:
        return {"coefficient": self.coefficient, "pressed": float(self.squared_norm().detach())}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]


def _stage(trainer: Trainer, name: str, steps: int) -> Trainer:
    """Return a stage with Adam: Muon would orthogonalise scales and directions as matrices."""
    return trainer.stage(name, steps=steps, optimizer="adam")


def _mean(values: Mapping[int, float], channel_ids: Iterable[int]) -> float:
    selected = [values[channel] for channel in channel_ids if channel != 0]
    return sum(selected) / len(selected) if selected else 0.0
