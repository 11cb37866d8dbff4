"""Which networks are there, and how is one made by name?"""

from __future__ import annotations

from typing import Any

from torch import nn

from thinlens.errors import UsageError
from thinlens.models import carn, dmphn, dncnn, edsr, rfdn, srn, unet
from thinlens.models.network import Network

MODELS: dict[str, Network] = {
    **edsr.NETWORKS,
    **carn.NETWORKS,
    **rfdn.NETWORKS,
    **dncnn.NETWORKS,
    **unet.NETWORKS,
    **srn.NETWORKS,
    **dmphn.NETWORKS,
}
"""The networks by the name that the command line and checkpoints use."""


def network(name: str) -> Network:
    """Look a network up; an unknown name is a `UsageError` that lists the known ones."""
    if name not in MODELS:
        raise UsageError(f"unknown network {name!r}: wanted one of {', '.join(sorted(MODELS))}")
    return MODELS[name]


def create(name: str, **options: Any) -> nn.Module:
    """Make a network with fresh weights; `options` are fields of its config."""
    entry = network(name)
    return entry.build(entry.configured(**options))
