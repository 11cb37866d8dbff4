"""N:M pruning methods: options, cost tables, plan, fine-tuning and record that they share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, ClassVar, Self

from torch import nn

from thinlens.engine.latency import measure_latency_table
from thinlens.methods.method import Method, refuse_parametrized
from thinlens.sparsity.allocation import (
    Allocation,
    CostTables,
    allocate,
    cost_tables,
    group_sizes,
    rank_energies,
)
from thinlens.sparsity.latency_table import LatencyTable
from thinlens.sparsity.masking import attach, prunable_layer, strip
from thinlens.sparsity.pattern import Pattern
from thinlens.sparsity.products import find_products
from thinlens.sparsity.prunable import Layer, Policy, default_policy, find_layers
from thinlens.sparsity.share import prunable_share
from thinlens.training.loop import Trainer
from thinlens.training.objective import PlainObjective, TrainingData
from thinlens.training.processes import from_main

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NMPlan:
    """N and M of every layer that is pruned."""

    allocation: Allocation
    m: dict[str, int]
    """The group size by layer name, in the order the layers run."""

    @property
    def n(self) -> dict[str, int]:
        """The weights kept in a group, by layer name."""
        return self.allocation.n


@dataclass(frozen=True, kw_only=True)
class NMMethod(Method):
    """A way to choose N and the kept weights of every prunable layer under a budget."""

    GROUPED: ClassVar[bool] = True

    m: int = 32
    """Consecutive input channels in a group."""
    policy: Policy = "skip"
    """Treatment of layers whose input channels M does not divide: skip them, pad the last group,
    use the largest smaller_m that divides them, or fit: the largest divisor from 8 to M, else the
    M that lacks fewest channels. Networks that are not in list_models() are pruned with fit."""
    keep_dense: tuple[str, ...] | None = None
    """Layers that stay dense; None: the first convolution and those that output the image."""
    latency: LatencyTable | None = None
    """Measured times of layers, if the budget is a fraction of time; None: of multiply-adds."""

    def shared(self) -> dict[str, Any]:
        """Return the options that all N:M methods have, to configure another one alike."""
        return {field.name: getattr(self, field.name) for field in fields(NMMethod)}

    def tables(self, model: nn.Module) -> CostTables:
        """Return the cost of every prunable layer at N = 0..M; `UsageError` if there is none."""
        if self.latency is not None:
            return self.latency.tables
        return cost_tables(self.layers(model), self.m)

    def layers(self, model: nn.Module) -> list[Layer]:
        """Return the layers of `model`; `UsageError` if none can be pruned."""
        layers = find_layers(
            model, self.example, m=self.m, policy=self.policy, keep_dense=self.keep_dense
        )
        refuse_parametrized(model, cost_tables(layers, self.m))
        return layers

    @classmethod
    def network_options(cls, model: nn.Module, m: int | None) -> dict[str, Any]:
        """Return the policy (`default_policy`)."""
        return {"policy": default_policy(model, m or cls.m)}

    def announce_share(self, model: nn.Module) -> dict[str, Any]:
        """Log the share of the multiply-adds that can be pruned, with the reasons of the rest.

        That is a warning where the share is small.
        """
        if self.BUDGET_BASE != "prunable_macs":
            return {}
        share = prunable_share(self.layers(model), find_products(model, self.example))
        log.log(logging.WARNING if share.small else logging.INFO, "%s", share)
        return {"prunable_share": share.fraction, "dense_macs": dict(share.dense)}

    def settle_budget(self, model: nn.Module, milliseconds: Fraction, threads: int) -> Self:
        """Measure the layers in the engine and express the time as a fraction of theirs."""
        latency = from_main(
            lambda: measure_latency_table(model, self.layers(model), self.example, threads)
        )
        return replace(self, budget=latency.budget(milliseconds), latency=latency)

    def plan(self, model: nn.Module) -> NMPlan:
        """Choose the same fraction N / M for every prunable layer, or the N of most energy per
        measured time; `UsageError` if none fits."""
        tables = self.tables(model)
        m = group_sizes(tables)
        modules = {name: prunable_layer(model, name) for name in tables}
        energies = {
            name: rank_energies(layer.weight, layer, m[name]) for name, layer in modules.items()
        }
        # A fraction of N is not that fraction of a measured time.
        start = dict.fromkeys(tables, 1) if self.latency is not None else None
        return NMPlan(allocate(tables, energies, self.budget, start), m)

    def fine_tuned(
        self,
        module: nn.Module,
        patterns: Mapping[str, Pattern],
        data: TrainingData,
        trainer: Trainer,
    ) -> tuple[nn.Module, dict[str, Pattern]]:
        """Train `module` for the trainer's steps under fixed masks; return it without masks.

        Weight and gradient are multiplied by the mask, so that pruned weights stay 0 and so does
        their optimizer state.
        """
        attach(module, patterns)
        if trainer.settings.steps:
            trainer.fit(PlainObjective(module, trainer.settings.loss), data)
        return strip(module)

    def record(self, plan: NMPlan) -> dict[str, Any]:
        """Return the provenance entries that describe a plan."""
        layers = {name: [n, plan.m[name]] for name, n in plan.n.items()}
        common = {"layers": layers, "distill_weight": self.distill_weight}
        if self.latency is None:
            achieved = float(plan.allocation.achieved)
            return {
                "budget": str(self.budget),
                "budget_base": "prunable_macs",
                "achieved": achieved,
                **common,
            }
        return {
            "budget": self.latency.milliseconds(int(self.budget.kept * self.latency.dense)),
            "budget_base": "milliseconds",
            "measured": self.latency.conditions,
            "achieved": self.latency.milliseconds(plan.allocation.cost),
            **common,
        }
