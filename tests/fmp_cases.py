"""Which hypernetworks, books and values do the tests of FMP look at?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from small_networks import RandomData, crossed
from thinlens.methods.fmp.cost_tracker import CostTracker, Magnitudes
from thinlens.methods.fmp.hypernetwork import Hypernetwork
from thinlens.methods.fmp.method import Fmp
from thinlens.methods.fmp.search import FmpSearch
from thinlens.models import create
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.channels import CoupledChannels, trace_channels
from thinlens.sparsity.prunable import find_layers
from thinlens.training.loop import Settings

EXAMPLE = (1, 3, 16, 16)

SETTINGS = Settings(
    steps=8, optimizer="adam", learning_rate=1e-2, warmup=0, save_every=2, schedule="constant"
)


class Enlarged(RandomData):
    """Targets twice as large as their inputs."""

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        image, target = super().batch(seed, epoch, step)
        return image, target.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def network(name: str) -> nn.Module:
    """A small network with sums, concatenations, gates or shuffles, and weights of its own."""
    if name == "crossed":
        return crossed()
    torch.manual_seed(0)
    sizes = {"rfdn": {"attention_width": 6, "blocks": 1}, "esrb-6-256": {"attention_width": 6}}
    return create(name, **{"scale": 2, "width": 12, "blocks": 2, **sizes.get(name, {})})


NETWORKS = ["crossed", "edsr", "rfdn", "esrb-6-256"]


@dataclass
class Case:
    """One search before its first step."""

    model: nn.Module
    channels: CoupledChannels
    method: Fmp
    search: FmpSearch

    @property
    def module(self) -> Hypernetwork:
        return self.search.hypernetwork

    @property
    def tracker(self) -> CostTracker:
        return self.search._tracker

    def randomize(self, seed: int) -> Magnitudes:
        """Give vectors and indicators random sizes, as a long search might."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for values in (self.module.vector, *self.module.indicators()):
                values.copy_(torch.randn(values.shape, generator=generator))
        return self.search._magnitudes((0.0, 0.0))


def case(name: str, budget: str = "0.4", settings: Settings = SETTINGS, **options: Any) -> Case:
    model, given = network(name), {"min_channels": 2, "threshold": 0.3, **options}
    method = Fmp(budget=Budget.parse(budget), example=EXAMPLE, **given)
    channels = trace_channels(model, EXAMPLE)
    search = method.search(model, find_layers(model, EXAMPLE), channels, settings)
    return Case(model, channels, method, search)
