"""What do all methods share that keep N of every M weights?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from thinlens.methods.method import BudgetMethod, refuse_parametrized
from thinlens.sparsity.allocation import Allocation, allocate, cost_tables, rank_energies
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.prunable import find_layers


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
class NMMethod(BudgetMethod):
    """An N:M method: a way to choose N and the weights of every prunable layer under a budget."""

    m: int = 32
    """Consecutive input channels in a group."""
    policy: str = "skip"
    """skip, pad or smaller_m: what to do where M does not divide the input channels."""
    keep_dense: tuple[str, ...] | None = None
    """Layers that stay dense; None: the first convolution and those that make the image."""

    def tables(self, model: nn.Module) -> dict[str, list[int]]:
        """Price every prunable layer of `model` at N = 0..M; `UsageError` if there is none."""
        layers = find_layers(
            model, self.example, m=self.m, policy=self.policy, keep_dense=self.keep_dense
        )
        tables = cost_tables(layers, self.m)
        refuse_parametrized(model, tables)
        return tables

    def plan(self, model: nn.Module) -> Plan:
        """Choose the same part N / M for every prunable layer; `UsageError` if none fits."""
        tables = self.tables(model)
        m = {name: len(costs) - 1 for name, costs in tables.items()}
        modules = {name: prunable_layer(model, name) for name in tables}
        energies = {
            name: rank_energies(layer.weight, layer, m[name]) for name, layer in modules.items()
        }
        return Plan(allocate(tables, energies, self.budget), m)

    def record(self, plan: Plan) -> dict[str, Any]:
        """Return what is remembered of a plan."""
        return {
            "budget": str(self.budget),
            "budget_base": "prunable_macs",
            "achieved": float(plan.allocation.achieved),
            "layers": {name: [n, plan.m[name]] for name, n in plan.n.items()},
        }
