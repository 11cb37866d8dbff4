"""FMP: take channels and single weights away together while training from nothing.

"Lightweight Image Super-Resolution via Flexible Meta Pruning" (ICML 2024). Only the supplement
was at hand. From it: channel vectors and weight indicators in a hypernetwork, no pretrained
network, the four criteria in parameters or FLOPs and their bookkeeping (section 2.2, Table 3).
Reconstructed: all that computes (`methods.fmp.hypernetwork`), the penalties, thresholds and proximal
steps (DHP's), the share of the run that is search, exact landing on the budget, fine-tuning.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import nn

from thinlens.errors import RunError, UsageError
from thinlens.methods.channels.filter import METRICS, check_same, masked, without
from thinlens.methods.channels.order import leaving_order, obstacles
from thinlens.methods.fmp.extraction import extracted, removed_parts
from thinlens.methods.fmp.granularity import Weights
from thinlens.methods.fmp.hypernetwork import Form, Hypernetwork
from thinlens.methods.fmp.search import Course, Search
from thinlens.methods.fmp.selection import CRITERIA, Goal, Ledger, Values
from thinlens.methods.method import Method, refuse_parametrized
from thinlens.sparsity.channel_cost import ChannelCost
from thinlens.sparsity.channels import Channels, find_channels
from thinlens.sparsity.masking import attach, prunable_layer, strip
from thinlens.sparsity.pattern import Pruned
from thinlens.sparsity.prunable import Layer, find_layers
from thinlens.training.loop import Trainer
from thinlens.training.objective import Plain, TrainingData
from thinlens.training.settings import Settings

SUBGRADIENT_PENALTY = 1e-6
"""lambda_W where it is in the loss and not given. No source has it: about the gradient of the L1
loss by an indicator."""


@dataclass(frozen=True, kw_only=True)
class Fmp(Method):
    """Search channels and weights by a hypernetwork; extract the small network; fine-tune it."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "channel_penalty": 0.1,
            "prox": "vectors",
            "search_until": 1 / 6,
            "finish": "refuse",
        },
        "plus": {"start": "weights"},
    }
    """DHP's constants for EDSR, which want its length (360 epochs of 1,000 steps at 1e-4); and
    ours for a network that was trained already. The default fits a run of any length."""

    criterion: str = "total"
    """What has to be removed, 1 - budget: by channels, by weights, by both in fixed shares
    (total-fixed), or by both as they like (total, FMP's choice)."""
    metric: str = "macs"
    """What the budget is a part of: the whole network's macs or params."""
    weight_share: float = 0.5
    """total-fixed: the part of what is removed that weights have to remove."""
    start: str = "fresh"
    """fresh: the given network's weights are forgotten. weights: the search starts from them."""
    indicator: str = "weight"
    """What an indicator judges: weight, kernel, or nm (weights in N:M groups, N by layer)."""
    groups_of: int = 32
    """nm: M, consecutive input channels of what is left."""
    least: int = 4
    """Channels that every layer keeps at least (DHP)."""
    least_weights: float = 0.02
    """The part of its weights that every layer keeps at least."""
    threshold: float = 5e-3
    """Under this an entry of a vector, or an indicator, is dead (DHP)."""
    prox: str = "both"
    """What takes proximal steps: both, or vectors (the indicators' penalty is in the loss)."""
    channel_penalty: float | None = None
    """lambda_C; None: so that an entry sinks by 2 in the search if nothing holds it."""
    weight_penalty: float | None = None
    """lambda_W; None: by 4, or `SUBGRADIENT_PENALTY` where it is in the loss. The parts of channels
    and weights that die are then as in Table 3's row Weight: 18 % and 38 %."""
    search_until: float = 0.5
    """The part of the run that the search may take; what it leaves is fine-tuning."""
    finish: str = "greedy"
    """What happens if the criterion is not met by then: refuse, or raise thresholds (greedy)."""
    embedding: int = 8
    """Length of the hypernetwork's inner vectors (DHP)."""
    checkpointed: bool = False
    """Save memory: make weights twice, remember nothing of how."""

    def __post_init__(self) -> None:
        choices = {"criterion": CRITERIA, "metric": METRICS, "prox": ("both", "vectors")}
        for key, known in {**choices, "finish": ("refuse", "greedy")}.items():
            if getattr(self, key) not in known:
                raise UsageError(f"{key} {getattr(self, key)!r}: wanted {' or '.join(known)}")
        for key in ("weight_share", "search_until", "least_weights"):
            if not 0 < getattr(self, key) < 1:
                raise UsageError(f"{key} {getattr(self, key)}: wanted a part between 0 and 1")
        for key in ("channel_penalty", "weight_penalty"):
            if getattr(self, key) is not None and not 0 <= getattr(self, key) < float("inf"):
                raise UsageError(f"{key} {getattr(self, key)}: wanted a finite number from 0 up")
        if self.least < 1 or not 0 < self.threshold < 1:
            raise UsageError("wanted least of 1 channel or more and a threshold between 0 and 1")
        self._form()

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a smaller network of the same class, with masks; `model` is never changed.

        Raises `UsageError` if the budget cannot be reached by this criterion.
        """
        began, steps = time.monotonic(), trainer.settings.steps
        if not steps:
            raise UsageError("fmp prunes while it trains: wanted a number of steps")
        layers = find_layers(model, self.example)
        refuse_parametrized(model, [layer.name for layer in layers])
        channels = find_channels(model, self.example)
        stage = trainer.stage(
            "search",
            steps=max(1, round(self.search_until * steps)),
            optimizer="adam",
            schedule="constant",
        )
        search = self.search(model, layers, channels, stage.settings)
        stage.fit(search, data)
        landing, landed = search.landing, search.landed_step
        assert landing is not None  # or `finish` would have raised
        assert landed is not None
        m = self.groups_of if self.indicator == "nm" else None
        thin, patterns = extracted(search.hypernetwork, channels, landing, m, self.example)
        if steps > landed:
            attach(thin, patterns)
            trainer.stage("tune", steps=steps - landed, optimizer="adam").fit(Plain(thin), data)
            thin, patterns = strip(thin)
        record = {
            **self._outcome(removed_parts(model, channels, landing, self.example)),
            "widths": {x.name: list(prunable_layer(thin, x.name).weight.shape[:2]) for x in layers},
            "obstacles": channels.obstacles,
            "search_steps": landed,
            "steps": steps,
            "seconds": time.monotonic() - began,
        }
        return Pruned(thin, patterns, record)

    def search(
        self, model: nn.Module, layers: list[Layer], channels: Channels, settings: Settings
    ) -> Search:
        """Return the objective that searches a hypernetwork of `model`.

        Raises `UsageError` if even the smallest network costs more than the budget.
        """
        order = leaving_order(model, channels, self.least)
        most = [leaver.label for leaver in order]
        if most:
            check_same(without(model, channels, most), masked(model, channels, most), self.example)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            module = Hypernetwork(model, layers, channels, self._form())
        prices = ChannelCost(model, self.example, channels)
        price = prices.macs if self.metric == "macs" else prices.params
        uses = prices.uses if self.metric == "macs" else dict.fromkeys(prices.uses, 1)
        weights = self._weights(model, layers, module, uses)
        ledger = Ledger(module, channels, weights, price, self.least)
        self._check_reachable(module, ledger, channels)
        course = self._course(self._goal(1 - self.budget.kept), settings)
        return Search(module, ledger, course, _owners(channels))

    def _outcome(self, parts: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        return {
            "budget": str(self.budget),
            "budget_base": self.metric,
            "achieved": parts[self.metric]["left"],
            "criterion": self.criterion,
            "indicator": self.indicator,
            "start": self.start,
            "parts": parts,
        }

    def _goal(self, removed: Fraction) -> Goal:
        return Goal.of(self.criterion, removed, self.weight_share)

    def _form(self) -> Form:
        return Form(self.start, self.indicator, self.embedding, self.checkpointed)

    def _weights(
        self, model: nn.Module, layers: list[Layer], module: Hypernetwork, uses: Mapping[str, int]
    ) -> list[Weights]:
        """Say of every layer in which pieces its weights die; in N:M the ends stay dense, and so
        does what has no groups."""
        found = find_layers(model, self.example, m=self.groups_of, policy="pad")
        grouped = {layer.name for layer in found if layer.prunable and layer.kind != "transposed"}
        weights = []
        for name in module.names:
            m, least = None, self.least_weights
            if self.indicator == "nm":
                m, least = (self.groups_of, 0.0) if name in grouped else (None, 1.0)
            weights.append(Weights(prunable_layer(model, name), uses[f"{name}.weight"], m, least))
        return weights

    def _course(self, goal: Goal, settings: Settings) -> Course:
        travelled = settings.learning_rate * settings.steps
        channels = 2 / travelled if self.channel_penalty is None else self.channel_penalty
        falling = 4 / travelled if self.prox == "both" else SUBGRADIENT_PENALTY
        return Course(
            goal=goal,
            settings=settings,
            channel_penalty=channels,
            weight_penalty=falling if self.weight_penalty is None else self.weight_penalty,
            proximal_weights=self.prox == "both",
            channel_threshold=self.threshold,
            weight_threshold=self.threshold,
            greedy=self.finish == "greedy",
        )

    def _check_reachable(self, module: Hypernetwork, ledger: Ledger, channels: Channels) -> None:
        sizes = module.vector.detach().abs().cpu()
        values = Values(sizes, [x.detach().abs() for x in module.indicators()], 1.0, 1.0)
        try:
            ledger.land(values, self._goal(1 - self.budget.kept), greedy=True)
        except RunError:
            lowest = float(ledger.lowest(values, self._goal))
            raise UsageError(
                f"budget {self.budget} of the {self.metric} cannot be reached by the criterion "
                f"{self.criterion}: the lowest reachable is {lowest:.2%}"
                f"{obstacles(channels, self.least)}"
            ) from None


def _owners(channels: Channels) -> dict[int, str]:
    """Name for every label the first layer that makes its channels."""
    owners: dict[int, str] = {}
    for name, axis in channels.producers.items():
        labels = channels.axes[name][axis]
        assert labels is not None  # a producer's axis is always labelled
        for label in labels.tolist():
            owners.setdefault(label, name.removesuffix(".weight"))
    return owners
