"""Which networks are there, and how is one made by name?"""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from torch import nn

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


def network(name: str) -> Network:
    """Look a network up; an unknown name is a `UsageError` that lists the known ones."""
    if name not in MODELS:
        raise UsageError(f"unknown network {name!r}: wanted one of {', '.join(sorted(MODELS))}")
    return MODELS[name]


def registry_name(module: object) -> str | None:
    """Return what checkpoints call the kind of a network; None for a network of another package.

    That is the first key of `MODELS` with a config of this class, or the class attribute `NAME` of
    a network that holds others.
    """
    config = getattr(module, "config", None)
    for name, entry in MODELS.items():
        if type(entry.config) is type(config):
            return name
    return getattr(type(module), "NAME", None) if is_dataclass(config) else None


def image_channels(module: nn.Module) -> int:
    """Return the channels of the images that `module` takes.

    Those of its config or of its entry in `MODELS`; of a network of another package, those of its
    first convolution. A `UsageError` if it has none.
    """
    name = registry_name(module)
    channels = getattr(module.config, "channels", None) if name else None
    if channels is not None:
        return int(channels)
    if name in MODELS:
        return MODELS[name].channels
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    raise UsageError(f"{type(module).__name__} has no convolution, so its input is not known")


def create(name: str, **options: Any) -> nn.Module:
    """Make a network with fresh weights; `options` are fields of its config."""
    entry = network(name)
    return entry.build(entry.configured(**options))
