"""Which networks are there, and how is one made by name?"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from torch import nn

from thinlens.dynamic.nm_branches import ClassPruned
from thinlens.dynamic.nm_branches import Config as ClassPrunedConfig
from thinlens.dynamic.routed import Config as RoutedConfig
from thinlens.dynamic.subnets import Config as FamilyConfig
from thinlens.dynamic.subnets import Family
from thinlens.errors import UsageError
from thinlens.models import (
    carn,
    classifier,
    dmphn,
    dncnn,
    edsr,
    esrb,
    gcanet,
    mse_estimator,
    rescan,
    rfdn,
    srn,
    srn_lstm,
    unet,
)
from thinlens.models.network import Network

MODELS: dict[str, Network] = {
    **edsr.NETWORKS,
    **esrb.NETWORKS,
    **carn.NETWORKS,
    **rfdn.NETWORKS,
    **dncnn.NETWORKS,
    **unet.NETWORKS,
    **srn.NETWORKS,
    **dmphn.NETWORKS,
    **rescan.NETWORKS,
    **srn_lstm.NETWORKS,
    **gcanet.NETWORKS,
    **classifier.NETWORKS,
    **mse_estimator.NETWORKS,
}
"""The networks by the name that the command line and checkpoints use."""


def _class_pruned(config: ClassPrunedConfig) -> nn.Module:
    return ClassPruned(config, _inner(config))


def _family(config: FamilyConfig) -> nn.Module:
    if len(config.thinner) != len(config.kept) - 1:
        raise UsageError(f"{len(config.kept)} members and {len(config.thinner)} thinner ones")
    return Family(config, [_inner(config, change) for change in config.thinner], _inner(config))


def _inner(config: RoutedConfig, change: str = "{}") -> nn.Module:
    """Build the network within; `change` are options in place of its own, as JSON."""
    entry = network(config.network)
    try:
        options = {**json.loads(config.options), **json.loads(change)}
        types = {f.name: type(getattr(entry.config, f.name)) for f in fields(entry.config)}
        fits = all(type(value) is types.get(key) for key, value in options.items())
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"the options of {config.network} are no JSON object") from error
    if not fits:
        raise UsageError(f"the options of {config.network} are not of its kinds: {options}")
    return entry.build(entry.configured(**options))


WRAPPERS: dict[str, Network] = {
    ClassPruned.NAME: Network(_class_pruned, ClassPrunedConfig(), "denoise", channels=1),
    Family.NAME: Network(_family, FamilyConfig(), "denoise", channels=1),
}
"""What checkpoints hold beside `MODELS`: networks around a network, made by methods."""


def network(name: str) -> Network:
    """Look a network up; an unknown name is a `UsageError` that lists the known ones."""
    if name not in MODELS:
        raise UsageError(f"unknown network {name!r}: wanted one of {', '.join(sorted(MODELS))}")
    return MODELS[name]


def image_channels(module: nn.Module) -> int:
    """Return the channels of the images that `module` takes: those of its first convolution, if
    it is none of our networks."""
    config = getattr(module, "config", None)
    for entry in (*MODELS.values(), *WRAPPERS.values()):
        if type(entry.config) is type(config):
            return int(getattr(config, "channels", entry.channels))
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    raise UsageError(f"{type(module).__name__} has no convolution, so its input is not known")


def create(name: str, **options: Any) -> nn.Module:
    """Make a network with fresh weights; `options` are fields of its config."""
    entry = network(name)
    return entry.build(entry.configured(**options))
