"""Option aliases: the old names of method options, which recipes and stored records still use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPTION_ALIASES = {
    "taught": "distill_weight",
    "travel": "priority_displacement",
    "drop": "allow_zero",
    "knapsack": "start_budget_factor",
    "hold_pruned": "freeze_pruned",
    "saliency": "importance",
    "rate": "anneal_quantity",
    "least": "min_channels",
    "least_weights": "min_weight_fraction",
    "groups_of": "m",
    "pace": "stage_rates",
    "prices": "latency",
}
"""The present name of an option by the name that it had before version 0.1.0 was released."""


def rename_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` under their present names; unknown names stay as they are.

    Applying it twice changes nothing more.

    >>> rename_options({"travel": 8.0, "alpha": 1.1})
    {'priority_displacement': 8.0, 'alpha': 1.1}
    """
    return {OPTION_ALIASES.get(name, name): value for name, value in options.items()}
