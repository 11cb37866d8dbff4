"""FMP: prune channels and single weights jointly while training from scratch.

"Lightweight Image Super-Resolution via Flexible Meta Pruning" (ICML 2024), three separate parts:
granularity (`methods.fmp.granularity`), proximal step (`methods.fmp.search`) and selection
(`methods.fmp.selection`). Only the supplement was available. From it: channel vectors and weight
indicators in a hypernetwork, no pretrained network, the four criteria in parameters or FLOPs and
the decomposition of the cost (section 2.2, Table 3). Reconstructed: the hypernetwork's equations
(`methods.fmp.hypernetwork`), the penalties, thresholds and proximal steps (DHP's), the fraction of
the run that is search, meeting the budget exactly, fine-tuning.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from thinlens.errors import RunError, UsageError
from thinlens.methods.channels.filter import (
    CostMetric,
    check_equivalent,
    remove_channels,
    zero_channels,
)
from thinlens.methods.channels.order import output_ids, pruning_order, unprunable_reason
from thinlens.methods.fmp.cost_tracker import CostTracker, Magnitudes
from thinlens.methods.fmp.extraction import extract, removed_cost
from thinlens.methods.fmp.granularity import WeightGroups
from thinlens.methods.fmp.hypernetwork import (
    Hypernetwork,
    HypernetworkConfig,
    HypernetworkStart,
    Indicator,
)
from thinlens.methods.fmp.search import FmpSearch, FmpSearchConfig
from thinlens.methods.fmp.selection import Criterion, Target, lowest_cost, select
from thinlens.methods.method import BudgetBase, Method, refuse_parametrized
from thinlens.sparsity.channel_cost import ChannelCost
from thinlens.sparsity.channels import CoupledChannels, trace_channels
from thinlens.sparsity.masking import attach, prunable_layer, strip
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.prunable import Layer, find_layers
from thinlens.training.loop import Trainer
from thinlens.training.objective import PlainObjective, TrainingData
from thinlens.training.settings import Settings

SUBGRADIENT_PENALTY = 1e-6
"""Default of lambda_W in the loss. Not published; about the gradient of the L1 loss by an
indicator."""


@dataclass(frozen=True, kw_only=True)
class Fmp(Method):
    """Select channels and weights with a hypernetwork; extract the pruned network; fine-tune it."""

    NAME: ClassVar[str] = "fmp"
    NEEDS_STEPS: ClassVar[bool] = True
    BUDGET_BASE: ClassVar[BudgetBase] = "metric"
    FROM_NAME: ClassVar[bool] = True

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "channel_penalty": 0.1,
            "prox": "vectors",
            "search_until": 1 / 6,
            "finish": "refuse",
        },
        "plus": {"start": "weights"},
    }
    """paper: DHP's constants for EDSR, which need its length (360 epochs of 1,000 steps at 1e-4).
    plus: ours for a trained network. The default fits a run of any length."""

    TRAINING_PRESETS: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
        "paper": {
            "sr": {
                "optimizer": "adam",
                "learning_rate": 1e-4,
                "schedule": "step",
                "warmup": 0,
                "epoch_steps": 1000,
                "precision": "fp32",
                "loss": "l1",
                "batch_size": 16,
                "patch": 48,
                "candidates": 1,
            }
        }
    }
    """DHP's: the supplement prints none. The patch is 192 pixels of the target at x4."""

    criterion: Criterion = "total"
    """What removes 1 - budget: channels, weights, both in fixed proportion (total-fixed), or both
    in any proportion (total, FMP's choice)."""
    metric: CostMetric = "macs"
    """Cost of the whole network that the budget is a fraction of: macs or params."""
    weight_share: float = 0.5
    """total-fixed: the fraction of the removed cost that weights have to remove."""
    start: HypernetworkStart = "fresh"
    """Initial weights: random (fresh), or those of the dense network (weights)."""
    indicator: Indicator = "weight"
    """Granularity of weight pruning: weight, kernel, or nm (N:M groups, N by layer)."""
    m: int = 32
    """nm: M, consecutive remaining input channels in a group."""
    min_channels: int = 4
    """Least number of channels in every layer (DHP)."""
    min_weight_fraction: float = 0.02
    """Least fraction of its weights that every layer keeps."""
    threshold: float = 5e-3
    """Entries of vectors and indicators below this are pruned (DHP)."""
    prox: Literal["both", "vectors"] = "both"
    """What takes proximal steps: both, or vectors (the indicators' penalty is in the loss)."""
    channel_penalty: float | None = None
    """lambda_C; None: the proximal steps of the search add up to 2."""
    weight_penalty: float | None = None
    """lambda_W; None: they add up to 4, or `SUBGRADIENT_PENALTY` if it is in the loss. The
    fractions removed by channels and weights are then as in Table 3's row Weight: 18 % and 38 %."""
    search_until: float = 0.5
    """Largest fraction of the run for the search; the rest is fine-tuning."""
    finish: Literal["refuse", "greedy"] = "greedy"
    """What to do if the criterion is not met by then: refuse, or raise thresholds (greedy)."""
    embedding: int = 8
    """Length of the hypernetwork's hidden vectors (DHP)."""
    checkpointed: bool = False
    """Recompute generated weights in the backward pass to save memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("weight_share", "search_until", "min_weight_fraction"):
            if not 0 < getattr(self, key) < 1:
                raise UsageError(f"{key} {getattr(self, key)}: wanted a part between 0 and 1")
        for key in ("channel_penalty", "weight_penalty"):
            if getattr(self, key) is not None and not 0 <= getattr(self, key) < float("inf"):
                raise UsageError(f"{key} {getattr(self, key)}: wanted a finite number from 0 up")
        if self.min_channels < 1 or not 0 < self.threshold < 1:
            raise UsageError("wanted min_channels from 1 and a threshold between 0 and 1")
        self._hypernetwork_config()

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a smaller network of the same class, with masks; `model` is never changed.

        Raises `UsageError` if the budget cannot be reached by this criterion.
        """
        start, steps = time.monotonic(), trainer.settings.steps
        self.check_steps(trainer.settings)
        layers = find_layers(model, self.example)
        names = [layer.name for layer in layers]
        refuse_parametrized(model, names)
        channels = trace_channels(model, self.example)
        stage = trainer.stage(
            "search",
            steps=max(1, round(self.search_until * steps)),
            optimizer="adam",
            schedule="constant",
        )
        search = self.search(model, layers, channels, stage.settings)
        stage.fit(search, data)
        selection, selected = search.selection, search.selected_step
        assert selection is not None  # or `finish` would have raised
        assert selected is not None
        m = self.m if self.indicator == "nm" else None
        smaller, patterns = extract(search.hypernetwork, channels, selection, m, self.example)
        if steps > selected:
            attach(smaller, patterns)
            trainer.stage("tune", steps=steps - selected, optimizer="adam").fit(
                PlainObjective(smaller), data
            )
            smaller, patterns = strip(smaller)
        record = {
            **self._cost_record(removed_cost(model, channels, selection, self.example)),
            "widths": {
                name: list(prunable_layer(smaller, name).weight.shape[:2]) for name in names
            },
            "obstacles": channels.unprunable_ops,
            "search_steps": selected,
            "steps": steps,
            "seconds": time.monotonic() - start,
        }
        return Pruned(smaller, patterns, record)

    def search(
        self, model: nn.Module, layers: list[Layer], channels: CoupledChannels, settings: Settings
    ) -> FmpSearch:
        """Return the objective that searches a hypernetwork of `model`.

        Raises `UsageError` if even the smallest network costs more than the budget.
        """
        order = pruning_order(model, channels, self.min_channels)
        candidates = [channel.channel_id for channel in order]
        if candidates:
            check_equivalent(
                remove_channels(model, channels, candidates),
                zero_channels(model, channels, candidates),
                self.example,
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            module = Hypernetwork(model, layers, channels, self._hypernetwork_config())
        channel_cost = ChannelCost(model, self.example, channels)
        cost = channel_cost.macs if self.metric == "macs" else channel_cost.params
        uses = channel_cost.macs_per_weight
        if self.metric == "params":
            uses = dict.fromkeys(uses, 1)
        weights = self._weight_groups(model, layers, module, uses)
        tracker = CostTracker(module, channels, weights, cost, self.min_channels)
        self._check_reachable(module, tracker, channels)
        config = self._search_config(self._target(1 - self.budget.kept), settings)
        return FmpSearch(module, tracker, config, _layer_names(channels))

    def _cost_record(self, removed: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        return {
            "budget": str(self.budget),
            "budget_base": self.metric,
            "achieved": removed[self.metric]["left"],
            "criterion": self.criterion,
            "indicator": self.indicator,
            "start": self.start,
            "parts": removed,
        }

    def _target(self, removed: Fraction) -> Target:
        return Target.of(self.criterion, removed, self.weight_share)

    def _hypernetwork_config(self) -> HypernetworkConfig:
        return HypernetworkConfig(self.start, self.indicator, self.embedding, self.checkpointed)

    def _weight_groups(
        self, model: nn.Module, layers: list[Layer], module: Hypernetwork, uses: Mapping[str, int]
    ) -> list[WeightGroups]:
        """Return the weight groups of every layer; in N:M the first and last layers and those
        without groups stay dense."""
        measured = find_layers(model, self.example, m=self.m, policy="pad")
        grouped = {x.name for x in measured if x.prunable and x.kind != "transposed"}
        weights = []
        for name in module.names:
            m, minimum = None, self.min_weight_fraction
            if self.indicator == "nm":
                m, minimum = (self.m, 0.0) if name in grouped else (None, 1.0)
            weights.append(
                WeightGroups(prunable_layer(model, name), uses[f"{name}.weight"], m, minimum)
            )
        return weights

    def _search_config(self, target: Target, settings: Settings) -> FmpSearchConfig:
        total_rate = settings.learning_rate * settings.steps
        channels = 2 / total_rate if self.channel_penalty is None else self.channel_penalty
        weights = 4 / total_rate if self.prox == "both" else SUBGRADIENT_PENALTY
        return FmpSearchConfig(
            target=target,
            settings=settings,
            channel_penalty=channels,
            weight_penalty=weights if self.weight_penalty is None else self.weight_penalty,
            proximal_weights=self.prox == "both",
            channel_threshold=self.threshold,
            weight_threshold=self.threshold,
            greedy=self.finish == "greedy",
        )

    def _check_reachable(
        self, module: Hypernetwork, tracker: CostTracker, channels: CoupledChannels
    ) -> None:
        sizes = module.vector.detach().abs().cpu()
        magnitudes = Magnitudes(sizes, [x.detach().abs() for x in module.indicators()], 1.0, 1.0)
        try:
            select(tracker, magnitudes, self._target(1 - self.budget.kept), greedy=True)
        except RunError:
            lowest = float(lowest_cost(tracker, magnitudes, self._target))
            raise UsageError(
                f"budget {self.budget} of the {self.metric} cannot be reached by the criterion "
                f"{self.criterion}: the lowest reachable is {lowest:.2%}"
                f"{unprunable_reason(channels, self.min_channels)}"
            ) from None


def _layer_names(channels: CoupledChannels) -> dict[int, str]:
    """Return, by channel id, the first layer that outputs it."""
    layer_names: dict[int, str] = {}
    for name in channels.output_axes:
        for channel in output_ids(channels, name).tolist():
            layer_names.setdefault(channel, name.removesuffix(".weight"))
    return layer_names
