"""ASSL: channels leave a network after training has shrunk their filters to nothing.

Zhang et al., "Aligned Structured Sparsity Learning for Efficient Image Super-Resolution"
(NeurIPS 2021), in its style: the structured baseline that FMP compares with. Every filter has a
scale (weight normalisation); layers that share channels first agree on which are small
(alignment), then an L2 penalty with a rising coefficient presses the chosen ones down, and they
are cut. As in the paper the network given is a trained one. Ours are the lengths, which are parts
of a run of any length, the alignment's coefficient and its centred form; the channels that leave
are chosen and cut as `filter` does, within one family the same for all layers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from thinlens.errors import UsageError
from thinlens.methods.channels.filter import Filter, tensors_of, without
from thinlens.methods.channels.order import families, magnitudes
from thinlens.methods.method import refuse_parametrized
from thinlens.sparsity.channels import Channels, find_channels
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.narrowing import narrow
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.prunable import find_layers
from thinlens.training.loop import Trainer
from thinlens.training.objective import Network, Plain, TrainingData

HIGHEST = 0.5
"""Where the penalty's coefficient ends (official code)."""

RISING = 0.7
"""The part of the pressing in which it rises: 100,000 of 143,150 iterations (official code)."""


@dataclass(frozen=True, kw_only=True)
class Assl(Filter):
    """Align, press down and cut the channels of least norm; fine-tune what is left."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    DEFAULT_PRESET: ClassVar[str | None] = None

    alignment: float = 1e-2
    """The coefficient of the alignment: with it the term is about as large as an L1 loss."""
    align_until: float = 0.1
    """The part of the run that aligns."""
    press_until: float = 0.4
    """The part of the run after which the pressed channels are cut."""

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
        began, steps = time.monotonic(), trainer.settings.steps
        if not steps:
            raise UsageError("assl prunes while it trains: wanted a number of steps")
        layers = [layer.name for layer in find_layers(model, self.example)]
        refuse_parametrized(model, layers)
        channels = find_channels(model, self.example)
        dead, _ = self.choose(model, channels)  # refuses what cannot be, and says how many leave
        scaled = Scaled(model, channels, layers)
        ends = [max(1, round(part * steps)) for part in (self.align_until, self.press_until)]
        aligning = Aligning(scaled, dead, self.alignment)
        _stage(trainer, "align", ends[0]).fit(aligning, data)
        dead, _ = self.choose(scaled.merged(), channels)
        pressing = max(1, ends[1] - ends[0])
        _stage(trainer, "press", pressing).fit(Pressing(scaled, dead, pressing), data)
        merged = scaled.merged()
        pressed = magnitudes(merged, channels, 2)
        thin, achieved = without(merged, channels, dead), self.kept(model, channels, dead)
        left = steps - ends[0] - pressing
        if left > 0:
            _stage(trainer, "tune", left).fit(Plain(thin), data)
        record = {
            "budget": str(self.budget),
            "budget_base": self.metric,
            "achieved": float(achieved),
            "widths": {name: list(prunable_layer(thin, name).weight.shape[:2]) for name in layers},
            "pressed": _mean(pressed, dead) / max(_mean(pressed, set(pressed) - set(dead)), 1e-12),
            "obstacles": channels.obstacles,
            "steps": steps,
            "seconds": time.monotonic() - began,
        }
        return Pruned(thin.eval(), {}, record)

    def scores(self, model: nn.Module, channels: Channels) -> dict[int, float]:
        """Return the norms of filters, which are their scales."""
        return magnitudes(model, channels, 2)


class Scaled:
    """A copy of a network in which every filter that may leave has a scale of its own."""

    def __init__(self, model: nn.Module, channels: Channels, layers: Sequence[str]) -> None:
        self.model, self.channels = model, channels
        self.module = copy.deepcopy(model)
        self.layers = [name for name in layers if f"{name}.weight" in channels.producers]
        for name in self.layers:
            layer = prunable_layer(self.module, name)
            weight_norm(layer, "weight", dim=channels.producers[f"{name}.weight"])

    def labels(self, name: str) -> Tensor:
        """Return the labels of a layer's filters."""
        weight = f"{name}.weight"
        labels = self.channels.axes[weight][self.channels.producers[weight]]
        assert labels is not None  # a producer's axis is always labelled
        return labels

    def scales(self, name: str) -> Tensor:
        """Return the scales of a layer's filters."""
        return self.module.get_parameter(f"{name}.parametrizations.weight.original0").flatten()

    def bias(self, name: str) -> Tensor | None:
        """Return the biases of a layer, if each belongs to one filter."""
        bias = prunable_layer(self.module, name).bias
        return bias if bias is not None and len(bias) == len(self.labels(name)) else None

    def merged(self) -> nn.Module:
        """Return the plain network that this one computes."""
        plain = copy.deepcopy(self.model)
        found = {}
        for name in tensors_of(plain):
            owner, _, kind = name.rpartition(".")
            found[name] = getattr(self.module.get_submodule(owner), kind).detach().clone()
        narrow(plain, found)
        return plain


class Aligning(Plain):
    """Make the layers that share channels agree on which of them are small."""

    def __init__(self, scaled: Scaled, dead: list[int], coefficient: float) -> None:
        super().__init__(scaled.module)
        self._scaled, self._coefficient = scaled, coefficient
        self._tied = [self._sharing(family, set(dead)) for family in families(scaled.channels)]

    def loss(self, network: Network, batch: tuple[Tensor, Tensor]) -> Tensor:
        return super().loss(network, batch) - self._coefficient * self.agreement()

    def agreement(self) -> Tensor:
        """Return the mean of S S^T, S being 1 at a layer's large scales and -1 at its small ones,
        over all families that several layers share.

        In the paper the small ones are 0: then the gradient raises every scale, which under Adam
        moves all alike and changes nothing.
        """
        terms = []
        for layers, leaving in self._tied:
            if len(layers) < 2:
                continue
            rows = torch.stack([self._scaled.scales(name)[order] for name, order in layers])
            border = rows.detach().sort(dim=1).values[:, leaving].unsqueeze(1)
            sure = torch.tanh((rows - border) / 2)  # 2 sigmoid - 1
            terms.append((sure @ sure.T).mean() / rows.shape[1])
        return torch.stack(terms).mean() if terms else torch.zeros(())

    def _sharing(self, family: list[int], dead: set[int]) -> tuple[list[tuple[str, Tensor]], int]:
        """Return the layers whose filters are exactly a family's channels, each with the order
        of its filters, and how many of the channels leave."""
        layers = []
        for name in self._scaled.layers:
            labels = self._scaled.labels(name)
            if sorted(labels.tolist()) == family:
                layers.append((name, labels.argsort()))
        return layers, sum(label in dead for label in family)


class Pressing(Plain):
    """Penalise the scales and biases of the channels that will leave, ever more."""

    def __init__(self, scaled: Scaled, dead: list[int], steps: int) -> None:
        super().__init__(scaled.module)
        self._scaled, self._steps, self._step = scaled, steps, 0
        gone = torch.tensor(sorted(dead), dtype=torch.int64)
        marked = {name: torch.isin(scaled.labels(name), gone) for name in scaled.layers}
        self._marked = {name: mask for name, mask in marked.items() if mask.any()}

    @property
    def coefficient(self) -> float:
        """The coefficient of the next step."""
        return HIGHEST * min(1.0, (self._step + 1) / (RISING * self._steps))

    def loss(self, network: Network, batch: tuple[Tensor, Tensor]) -> Tensor:
        return super().loss(network, batch) + self.coefficient / 2 * self.weight()

    def weight(self) -> Tensor:
        """Sum the squares of what leaves."""
        pressed = []
        for name, mask in self._marked.items():
            bias = self._scaled.bias(name)
            here = mask.to(self._scaled.scales(name).device)
            pressed.append(self._scaled.scales(name)[here].square().sum())
            pressed += [] if bias is None else [bias[here].square().sum()]
        return torch.stack(pressed).sum() if pressed else torch.zeros(())

    def after_step(self, step: int) -> None:
        self._step = step

    def metrics(self) -> dict[str, float]:
        return {"coefficient": self.coefficient, "pressed": float(self.weight().detach())}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]


def _stage(trainer: Trainer, name: str, steps: int) -> Trainer:
    """Return a stage with Adam, for Muon takes scales and directions for matrices."""
    return trainer.stage(name, steps=steps, optimizer="adam")


def _mean(values: Mapping[int, float], labels: Any) -> float:
    chosen = [values[label] for label in labels if label != 0]
    return sum(chosen) / len(chosen) if chosen else 0.0
