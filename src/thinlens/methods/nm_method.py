"""What do all methods share that keep N of every M weights?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from thinlens.methods.method import Method, refuse_parametrized
from thinlens.sparsity.allocation import (
    Allocation,
    Tables,
    allocate,
    cost_tables,
    group_sizes,
    rank_energies,
)
from thinlens.sparsity.latency_table import Prices
from thinlens.sparsity.masking import attach, prunable_layer, strip
from thinlens.sparsity.pattern import Pattern
from thinlens.sparsity.prunable import Layer, find_layers
from thinlens.training.loop import Trainer
from thinlens.training.objective import Plain, TrainingData


@dataclass(frozen=True)
class Plan:
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
    """An N:M method: a way to choose N and the weights of every prunable layer under a budget."""

    m: int = 32
    """Consecutive input channels in a group."""
    policy: str = "skip"
    """skip, pad or smaller_m: what to do where M does not divide the input channels."""
    keep_dense: tuple[str, ...] | None = None
    """Layers that stay dense; None: the first convolution and those that make the image."""
    prices: Prices | None = None
    """Measured times that the budget is a part of; None: of multiply-adds."""

    def shared(self) -> dict[str, Any]:
        """Return the settings that every such method has, to make another one with."""
        return {field.name: getattr(self, field.name) for field in fields(NMMethod)}

    def tables(self, model: nn.Module) -> Tables:
        """Price every prunable layer of `model` at N = 0..M; `UsageError` if there is none."""
        if self.prices is not None:
            return self.prices.tables
        return cost_tables(self.layers(model), self.m)

    def layers(self, model: nn.Module) -> list[Layer]:
        """List the layers of `model`; `UsageError` if none can be pruned."""
        layers = find_layers(
            model, self.example, m=self.m, policy=self.policy, keep_dense=self.keep_dense
        )
        refuse_parametrized(model, cost_tables(layers, self.m))
        return layers

    def plan(self, model: nn.Module) -> Plan:
        """Choose the same part N / M for every prunable layer; `UsageError` if none fits."""
        tables = self.tables(model)
        m = group_sizes(tables)
        modules = {name: prunable_layer(model, name) for name in tables}
        energies = {
            name: rank_energies(layer.weight, layer, m[name]) for name, layer in modules.items()
        }
        return Plan(allocate(tables, energies, self.budget), m)

    def fine_tuned(
        self,
        module: nn.Module,
        patterns: Mapping[str, Pattern],
        data: TrainingData,
        trainer: Trainer,
    ) -> tuple[nn.Module, dict[str, Pattern]]:
        """Train `module` for the trainer's steps under the chosen masks; it is plain again after.

        Weight and gradient are multiplied by the mask, so a removed weight stays out and its
        optimizer state stays 0.
        """
        attach(module, patterns)
        if trainer.settings.steps:
            trainer.fit(Plain(module, trainer.settings.loss), data)
        return strip(module)

    def record(self, plan: Plan) -> dict[str, Any]:
        """Return what is remembered of a plan."""
        layers = {name: [n, plan.m[name]] for name, n in plan.n.items()}
        common = {"layers": layers, "taught": self.taught}
        if self.prices is None:
            achieved = float(plan.allocation.achieved)
            return {
                "budget": str(self.budget),
                "budget_base": "prunable_macs",
                "achieved": achieved,
                **common,
            }
        return {
            "budget": self.prices.milliseconds(int(self.budget.kept * self.prices.dense)),
            "budget_base": "milliseconds",
            "measured": self.prices.measured,
            "achieved": self.prices.milliseconds(plan.allocation.cost),
            **common,
        }
