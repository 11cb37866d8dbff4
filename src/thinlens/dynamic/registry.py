"""Registry of routed networks, and of everything that a checkpoint may hold."""

from __future__ import annotations

import json
from collections import ChainMap
from dataclasses import fields

from torch import nn

from thinlens.dynamic.nm_branches import ClassPruned, ClassPrunedConfig
from thinlens.dynamic.routed import RoutedConfig
from thinlens.dynamic.subnets import RoutedSubnets, RoutedSubnetsConfig
from thinlens.errors import UsageError
from thinlens.models import MODELS, model_entry
from thinlens.models.entry import ModelEntry


def _class_pruned(config: ClassPrunedConfig) -> nn.Module:
    return ClassPruned(config, _inner(config))


def _routed_subnets(config: RoutedSubnetsConfig) -> nn.Module:
    if len(config.thinner) != len(config.kept) - 1:
        raise UsageError(f"{len(config.kept)} branches and {len(config.thinner)} smaller subnets")
    return RoutedSubnets(
        config, [_inner(config, change) for change in config.thinner], _inner(config)
    )


def _inner(config: RoutedConfig, overrides: str = "{}") -> nn.Module:
    """Build the network within; `overrides` are options in place of its own, as JSON."""
    entry = model_entry(config.network)
    try:
        options = {**json.loads(config.options), **json.loads(overrides)}
        types = {f.name: type(getattr(entry.config, f.name)) for f in fields(entry.config)}
        fits = all(type(value) is types.get(key) for key, value in options.items())
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"the options of {config.network} are no JSON object") from error
    if not fits:
        raise UsageError(f"the options of {config.network} are not of its kinds: {options}")
    return entry.build(entry.make_config(**options))


WRAPPERS: dict[str, ModelEntry] = {
    ClassPruned.NAME: ModelEntry(_class_pruned, ClassPrunedConfig(), "denoise", channels=1),
    RoutedSubnets.NAME: ModelEntry(_routed_subnets, RoutedSubnetsConfig(), "denoise", channels=1),
}
"""What checkpoints hold beside `MODELS`: networks around a network, made by methods."""

BUILDABLE: ChainMap[str, ModelEntry] = ChainMap(MODELS, WRAPPERS)
"""All that a checkpoint may hold, by name."""
