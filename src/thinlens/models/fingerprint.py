"""Fingerprint a network: hash its registry name, its config and its tensors.

Bundles and manifests of results store fingerprints, so they depend on nothing that a refactoring
changes: no class or module name, no `repr`, and no field that has its default value.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import nn

from thinlens.models import registry_name

FINGERPRINT_DIGITS = 16
"""Hexadecimal digits of a SHA-256 that a fingerprint keeps: 64 bits."""


def fingerprint(network: object) -> str:
    """Return 16 hexadecimal digits of a network's registry name, config and state.

    `network` is a module, or an object of an engine that keeps its module as `.module`. One of
    another package has no registry name and no config: its tensors alone name it.
    """
    module = getattr(network, "module", network)
    name = registry_name(module)
    head = settings_text(name, getattr(module, "config", None)) if name else ""
    return digest(head, module)


def settings_text(name: str, settings: Any) -> str:
    """Return a name and the fields of a frozen dataclass that differ from their defaults, as JSON.

    It is unchanged by another class name and by a new field that has its default value.

    >>> from thinlens.models.rfdn import Config
    >>> settings_text("rfdn", Config(width=8))
    '["rfdn", {"width": 8}]'
    """
    values = asdict(settings)
    changed = {f.name: values[f.name] for f in fields(settings) if values[f.name] != f.default}
    return json.dumps([name, changed], sort_keys=True)


def digest(head: str, module: object) -> str:
    """Hash a text and the tensors of a module, if it is one."""
    sha = hashlib.sha256(head.encode())
    for name, value in module.state_dict().items() if isinstance(module, nn.Module) else ():
        sha.update(name.encode())
        sha.update(value.cpu().flatten().view(torch.uint8).numpy())
    return sha.hexdigest()[:FINGERPRINT_DIGITS]
