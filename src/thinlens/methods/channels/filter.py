"""Filter pruning: take the smallest filters away, and give back a network that is really smaller.

Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017): a filter's score is the sum of
its absolute weights. Channels that a residual sum, a pixel shuffle or a group ties together leave
together, with the sum of their filters' scores (`sparsity.channels` finds them in any network).
"""

from __future__ import annotations

import copy
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.methods.channels.order import leaving_order, magnitudes, obstacles
from thinlens.methods.method import Method, refuse_parametrized
from thinlens.sparsity.channel_cost import ChannelCost
from thinlens.sparsity.channels import Channels, find_channels, small
from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.masking import attach, prunable_layer, strip
from thinlens.sparsity.narrowing import narrow
from thinlens.sparsity.pattern import Pattern, Pruned
from thinlens.sparsity.prunable import find_layers
from thinlens.training.loop import Trainer
from thinlens.training.objective import Plain, TrainingData

METRICS = ("macs", "params")
FLAVOURS = ("safe", "naive")

EIGHTH = Fraction(1, 8)

TOLERANCE = 1e-4
"""By how much, in parts of the largest output, the cut network may differ from the masked one."""


@dataclass(frozen=True, kw_only=True)
class Filter(Method):
    """Remove the channels of least magnitude from every layer alike; fine-tune what is left."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"flavour": "naive"},
        "plus": {},
    }
    """How SLS ran it, and ours."""

    DEFAULT_PRESET: ClassVar[str | None] = "plus"

    metric: str = "macs"
    """What the budget is a part of: the whole network's macs or params."""
    flavour: str = "safe"
    """safe: as many channels leave as the budget demands, and every pixel stays. naive: every
    layer keeps the eighth nearest to sqrt(budget), which may cost a little more than the budget
    (SLS's rows 1/4, 1/8, 1/16 are the widths 1/2, 3/8, 1/4), also the layer whose pixel shuffle
    is the image: the pixels that it no longer makes are 0."""
    least: int = 4
    """Channels that every layer keeps at least."""

    def __post_init__(self) -> None:
        for key, known in (("metric", METRICS), ("flavour", FLAVOURS)):
            if getattr(self, key) not in known:
                raise UsageError(f"{key} {getattr(self, key)!r}: wanted {' or '.join(known)}")
        if self.least < 1:
            raise UsageError(f"least {self.least}: wanted 1 channel or more")

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a smaller network of the same class; `model` is never changed.

        Raises `UsageError` if the budget cannot be reached by removing channels, or if the
        network's own code does not bear it.
        """
        began = time.monotonic()
        layers = [layer.name for layer in find_layers(model, self.example)]
        refuse_parametrized(model, layers)
        channels = find_channels(model, self.example)
        dead, achieved = self.choose(model, channels)
        thin = without(model, channels, dead)
        patterns = self._fewer_pixels(thin, channels) if self.flavour == "naive" else {}
        if trainer.settings.steps:
            attach(thin, patterns)
            trainer.fit(Plain(thin, trainer.settings.loss), data)
            thin, patterns = strip(thin)
        record = {
            "budget": str(self.budget),
            "budget_base": self.metric,
            "achieved": float(achieved),
            "flavour": self.flavour,
            "filters": {name: _filters(thin, name) for name in layers},
            "obstacles": channels.obstacles,
            "steps": trainer.settings.steps,
            "seconds": time.monotonic() - began,
        }
        return Pruned(thin, patterns, record)

    def choose(self, model: nn.Module, channels: Channels) -> tuple[list[int], Fraction]:
        """Return the labels of the channels that leave, and the part of the cost that is kept."""
        order = leaving_order(model, channels, self.least, self.scores(model, channels))
        why = obstacles(channels, self.least)
        if not order:
            raise UsageError(f"filter pruning finds no channel to remove{why}")
        most = [leaver.label for leaver in order]
        check_same(without(model, channels, most), masked(model, channels, most), self.example)
        price = self._price(model, channels)
        dense = price([])

        def part(count: int) -> Fraction:
            return Fraction(price(most[:count]), dense)

        if self.flavour == "naive":
            width = nearest_eighth(self.budget.kept)
            count = bisect_left(order, True, key=lambda leaver: leaver.gone > 1 - width)
        elif (lowest := part(len(order))) > self.budget.kept:
            raise UsageError(
                f"budget {self.budget} of the {self.metric} cannot be reached by removing "
                f"channels: the lowest reachable is {float(lowest):.2%}{why}"
            )
        else:
            counts = range(len(order) + 1)
            count = bisect_left(counts, True, key=lambda n: part(n) <= self.budget.kept)
        return most[:count], part(count)

    def kept(self, model: nn.Module, channels: Channels, dead: list[int]) -> Fraction:
        """Return the part of the cost that is kept without these channels."""
        price = self._price(model, channels)
        return Fraction(price(dead), price([]))

    def _price(self, model: nn.Module, channels: Channels) -> Callable[[list[int]], int]:
        prices = ChannelCost(model, self.example, channels)
        return prices.macs if self.metric == "macs" else prices.params

    def scores(self, model: nn.Module, channels: Channels) -> dict[int, float]:
        """Return how much every label is worth: the least leave first."""
        return magnitudes(model, channels)

    @torch.no_grad()
    def _fewer_pixels(self, thin: nn.Module, channels: Channels) -> dict[str, Pattern]:
        """Zero the smallest filters of the layer whose pixel shuffle is the image, if there is one.

        Their biases are set to 0 and stay there, for they get no gradient.
        """
        last = list(channels.producers)[-1]
        name, labels = last.removesuffix(".weight"), channels.axes[last][0]
        layer, rows = prunable_layer(thin, name), _filters(thin, name)
        makes_image = labels is not None and not labels.any()
        if not makes_image or rows == dry_run(thin, small(self.example)).outputs[0][1]:
            return {}
        scores = layer.weight.abs().flatten(1).sum(1)
        order = scores.argsort(descending=True, stable=True)
        gone = torch.ones(rows, dtype=torch.bool, device=scores.device)
        gone[order[: round(nearest_eighth(self.budget.kept) * rows)]] = False
        layer.weight[gone] = 0.0
        if layer.bias is not None:
            layer.bias[gone] = 0.0
            layer.bias.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: gradient.masked_fill(gone.to(gradient.device), 0)
            )
        mask = torch.ones_like(layer.weight, dtype=torch.bool)
        mask[gone] = False
        return {name: Pattern(mask)}


def nearest_eighth(kept: Fraction) -> Fraction:
    """Return the width, in eighths, whose square is nearest to the part that is kept."""
    return max(EIGHTH, Fraction(round(8 * float(kept) ** 0.5), 8))


def _filters(model: nn.Module, name: str) -> int:
    layer = prunable_layer(model, name)
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, also buffers that no checkpoint stores."""
    named = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    return {name: tensor.detach() for name, tensor in named.items()}


def without(model: nn.Module, channels: Channels, dead: Sequence[int]) -> nn.Module:
    """Return a copy of `model` that lacks the channels `dead`."""
    thin = copy.deepcopy(model)
    narrow(thin, channels.cut(tensors_of(model), dead))
    return thin


def masked(model: nn.Module, channels: Channels, dead: Sequence[int]) -> nn.Module:
    """Return a copy of `model` of full size whose channels `dead` are 0 in every tensor."""
    full = copy.deepcopy(model)
    narrow(full, channels.zeroed(tensors_of(model), dead))
    return full


@torch.no_grad()
def check_same(
    thin: nn.Module, full: nn.Module, example: Sequence[int], tolerance: float = TOLERANCE
) -> None:
    """Raise `UsageError` unless the smaller network computes what the masked one does.

    Both sum in another order, so only float64 tells a small difference from rounding.
    """
    generator = torch.Generator().manual_seed(0)
    tensor = next(full.parameters())
    image = torch.rand(small(example), generator=generator).to(tensor.device, tensor.dtype)
    wanted = copy.deepcopy(full).eval()(image)
    try:
        found = copy.deepcopy(thin).eval()(image)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(f"the network's code does not bear fewer channels: {error}") from error
    worst = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if not worst <= tolerance:
        raise UsageError(
            "the network's code uses its number of channels: with channels removed it differs "
            f"by {worst:.1e} from the network in which they are 0"
        )
