"""Filter pruning: remove the filters of least L1 norm and return a physically smaller network.

Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017): a filter's score is the sum of
its absolute weights. Channels coupled by a residual sum, a pixel shuffle or a group are pruned
together, by the sum of their filters' scores (`sparsity.channels` traces them in any network).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.methods.channels.order import filter_norms, pruning_order, unprunable_reason
from thinlens.methods.method import BudgetBase, Method, refuse_parametrized
from thinlens.models.copying import copy_network
from thinlens.sparsity.channel_cost import ChannelCost
from thinlens.sparsity.channels import CoupledChannels, trace_channels, trace_shape
from thinlens.sparsity.dry_run import dry_run
from thinlens.sparsity.masking import attach, prunable_layer, strip
from thinlens.sparsity.pattern import Pattern, Pruned
from thinlens.sparsity.prunable import find_layers
from thinlens.sparsity.resize_parameters import resize_parameters
from thinlens.training.loop import Trainer
from thinlens.training.objective import PlainObjective, TrainingData

CostMetric = Literal["macs", "params"]
"""The cost of a whole network that a budget is a fraction of."""

EIGHTH = Fraction(1, 8)
"""Granularity of the naive widths, as a fraction of a layer's filters."""

OUTPUT_TOLERANCE = 1e-4
"""Largest difference of the smaller network from the zeroed one, relative to the largest output."""


@dataclass(frozen=True, kw_only=True)
class Filter(Method):
    """Remove the channels of least magnitude at equal ratios in all layers; then fine-tune."""

    NAME: ClassVar[str] = "filter"
    NEEDS_DATA: ClassVar[bool] = False
    BUDGET_BASE: ClassVar[BudgetBase] = "metric"

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"flavour": "naive"},
        "plus": {},
    }
    """paper: as in SLS's comparison. plus: ours."""

    DEFAULT_PRESET: ClassVar[str | None] = "plus"

    metric: CostMetric = "macs"
    """Cost of the whole network that the budget is a fraction of: macs or params."""
    flavour: Literal["safe", "naive"] = "safe"
    """safe: prune as many channels as the budget requires, and no output pixel. naive: every layer
    keeps the number of eighths nearest to sqrt(budget), which may cost a little more than the
    budget (SLS's rows 1/4, 1/8, 1/16 are the widths 1/2, 3/8, 1/4), also the layer whose pixel
    shuffle is the image: output pixels of pruned filters are 0."""
    min_channels: int = 4
    """Least number of channels in every layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_channels < 1:
            raise UsageError(f"min_channels {self.min_channels}: wanted 1 channel or more")

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a smaller network of the same class; `model` is never changed.

        Raises `UsageError` if the budget cannot be reached by removing channels, or if the
        network's code depends on its number of channels.
        """
        start = time.monotonic()
        layers = [layer.name for layer in find_layers(model, self.example)]
        refuse_parametrized(model, layers)
        channels = trace_channels(model, self.example)
        pruned, achieved = self.choose(model, channels)
        smaller = remove_channels(model, channels, pruned)
        patterns = self._zero_output_filters(smaller, channels) if self.flavour == "naive" else {}
        if trainer.settings.steps:
            attach(smaller, patterns)
            trainer.fit(PlainObjective(smaller, trainer.settings.loss), data)
            smaller, patterns = strip(smaller)
        record = {
            "budget": str(self.budget),
            "budget_base": self.metric,
            "achieved": float(achieved),
            "flavour": self.flavour,
            "filters": {name: _filters(smaller, name) for name in layers},
            "obstacles": channels.unprunable_ops,
            "steps": trainer.settings.steps,
            "seconds": time.monotonic() - start,
        }
        return Pruned(smaller, patterns, record)

    def choose(self, model: nn.Module, channels: CoupledChannels) -> tuple[list[int], Fraction]:
        """Return the ids of the channels to prune, and the fraction of the cost that is kept."""
        order = pruning_order(model, channels, self.min_channels, self.scores(model, channels))
        reason = unprunable_reason(channels, self.min_channels)
        if not order:
            raise UsageError(f"filter pruning finds no channel to remove{reason}")
        candidates = [channel.channel_id for channel in order]
        check_equivalent(
            remove_channels(model, channels, candidates),
            zero_channels(model, channels, candidates),
            self.example,
        )
        channel_cost = self._cost(model, channels)
        dense = channel_cost([])

        def fraction(count: int) -> Fraction:
            return Fraction(channel_cost(candidates[:count]), dense)

        if self.flavour == "naive":
            width = nearest_eighth(self.budget.kept)
            count = bisect_left(
                order, True, key=lambda channel: channel.pruned_fraction > 1 - width
            )
        elif (lowest := fraction(len(order))) > self.budget.kept:
            raise UsageError(
                f"budget {self.budget} of the {self.metric} cannot be reached by removing "
                f"channels: the lowest reachable is {float(lowest):.2%}{reason}"
            )
        else:
            counts = range(len(order) + 1)
            count = bisect_left(counts, True, key=lambda n: fraction(n) <= self.budget.kept)
        return candidates[:count], fraction(count)

    def kept(self, model: nn.Module, channels: CoupledChannels, pruned: list[int]) -> Fraction:
        """Return the fraction of the cost that is kept without the `pruned` channel ids."""
        channel_cost = self._cost(model, channels)
        return Fraction(channel_cost(pruned), channel_cost([]))

    def _cost(self, model: nn.Module, channels: CoupledChannels) -> Callable[[list[int]], int]:
        counted = ChannelCost(model, self.example, channels)
        return counted.macs if self.metric == "macs" else counted.params

    def scores(self, model: nn.Module, channels: CoupledChannels) -> dict[int, float]:
        """Return the importance of every channel id: the lowest are pruned first."""
        return filter_norms(model, channels)

    @torch.no_grad()
    def _zero_output_filters(
        self, smaller: nn.Module, channels: CoupledChannels
    ) -> dict[str, Pattern]:
        """Zero the smallest filters of the layer whose pixel shuffle is the image, if any.

        Their biases are set to 0 and stay 0, because their gradient is masked.
        """
        last = list(channels.output_axes)[-1]
        name, ids = last.removesuffix(".weight"), channels.axes[last][0]
        layer, rows = prunable_layer(smaller, name), _filters(smaller, name)
        outputs_image = ids is not None and not ids.any()
        if not outputs_image or rows == dry_run(smaller, trace_shape(self.example)).outputs[0][1]:
            return {}
        scores = layer.weight.abs().flatten(1).sum(1)
        order = scores.argsort(descending=True, stable=True)
        pruned = torch.ones(rows, dtype=torch.bool, device=scores.device)
        pruned[order[: round(nearest_eighth(self.budget.kept) * rows)]] = False
        layer.weight[pruned] = 0.0
        if layer.bias is not None:
            layer.bias[pruned] = 0.0
            layer.bias.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: gradient.masked_fill(pruned.to(gradient.device), 0)
            )
        mask = torch.ones_like(layer.weight, dtype=torch.bool)
        mask[pruned] = False
        return {name: Pattern(mask)}


def nearest_eighth(kept: Fraction) -> Fraction:
    """Return the width, in eighths, whose square is nearest to the fraction that is kept."""
    return max(EIGHTH, Fraction(round(8 * float(kept) ** 0.5), 8))


def _filters(model: nn.Module, name: str) -> int:
    layer = prunable_layer(model, name)
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, including non-persistent buffers."""
    named = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    return {name: tensor.detach() for name, tensor in named.items()}


def remove_channels(
    model: nn.Module, channels: CoupledChannels, pruned: Sequence[int]
) -> nn.Module:
    """Return a copy of `model` without the channel ids `pruned`."""
    smaller = copy_network(model)
    resize_parameters(smaller, channels.prune_tensors(named_tensors(model), pruned))
    return smaller


def zero_channels(model: nn.Module, channels: CoupledChannels, pruned: Sequence[int]) -> nn.Module:
    """Return a copy of `model` of full size whose channels `pruned` are 0 in every tensor."""
    full = copy_network(model)
    resize_parameters(full, channels.mask_tensors(named_tensors(model), pruned))
    return full


@torch.no_grad()
def check_equivalent(
    smaller: nn.Module, full: nn.Module, example: Sequence[int], tolerance: float = OUTPUT_TOLERANCE
) -> None:
    """Raise `UsageError` unless the smaller network computes what the zeroed one does.

    They sum in different orders, so only float64 separates a small difference from rounding.
    """
    generator = torch.Generator().manual_seed(0)
    tensor = next(full.parameters())
    image = torch.rand(trace_shape(example), generator=generator).to(tensor.device, tensor.dtype)
    expected = copy_network(full).eval()(image)
    try:
        output = copy_network(smaller).eval()(image)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(f"the network's code does not bear fewer channels: {error}") from error
    worst = float((output - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not worst <= tolerance:
        raise UsageError(
            "the network's code uses its number of channels: with channels removed it differs "
            f"by {worst:.1e} from the network in which they are 0"
        )
