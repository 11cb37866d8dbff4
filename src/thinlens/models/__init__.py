"""Registry of plain networks: create one by its name, and name the kind of a module."""

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
    rrdb,
    srn,
    srn_lstm,
    srvgg,
    unet,
)
from thinlens.models.entry import ModelEntry
from thinlens.models.input_channels import probed_channels

MODELS: dict[str, ModelEntry] = {
    **edsr.NETWORKS,
    **esrb.NETWORKS,
    **carn.NETWORKS,
    **rfdn.NETWORKS,
    **srvgg.NETWORKS,
    **rrdb.NETWORKS,
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


def model_entry(name: str) -> ModelEntry:
    """Look a network up; an unknown name is a `UsageError` that lists the known ones.

    >>> model_entry("rfdn").task
    'sr'
    """
    if name not in MODELS:
        raise UsageError(f"unknown network {name!r}: wanted one of {', '.join(sorted(MODELS))}")
    return MODELS[name]


def create(name: str, **options: Any) -> nn.Module:
    """Make a network with random weights; `options` are fields of its config.

    >>> create("edsr", scale=2, width=8, blocks=1).config
    Config(scale=2, width=8, blocks=1, input_range=255.0)
    """
    entry = model_entry(name)
    return entry.build(entry.make_config(**options))


def registry_name(module: object) -> str | None:
    """Return the registry name of the kind of a network; None for one of another package.

    That is the first key of `MODELS` with a config of the same class, or the class attribute `NAME`
    of a network that contains others (`thinlens.dynamic`).

    >>> registry_name(create("dncnn-20", width=8, depth=3))
    'dncnn-17'
    """
    config = getattr(module, "config", None)
    for name, entry in MODELS.items():
        if type(entry.config) is type(config):
            return name
    return getattr(type(module), "NAME", None) if is_dataclass(config) else None


def image_channels(module: nn.Module) -> int:
    """Return the channels of the images that `module` takes.

    Those of its config or of its entry in `MODELS`; those of a network of another package are
    found by running it (`thinlens.models.input_channels`).

    >>> image_channels(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 3, 3)))
    4
    """
    name = registry_name(module)
    channels = getattr(module.config, "channels", None) if name else None
    if channels is not None:
        return int(channels)
    return MODELS[name].channels if name in MODELS else probed_channels(module)
