"""Canonical weight layout, in which N:M groups are consecutive entries.

The canonical layout is `[c_out, kh, kw, c_in / groups]` for convolutions, transposed convolutions
and linear layers alike; N:M groups divide its last axis (SLS, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PRUNABLE_TYPES = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""The module types whose weight has a canonical layout."""

PrunableModule = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def canonical(weight: Tensor, module: PrunableModule) -> Tensor:
    """Bring `weight`, shaped as `module`'s, to `[c_out, kh, kw, c_in / groups]` (a view)."""
    if isinstance(module, nn.Linear):
        return weight[:, None, None, :]
    if isinstance(module, nn.ConvTranspose2d):
        c_in, c_out_per_group, kh, kw = weight.shape
        split = weight.reshape(module.groups, c_in // module.groups, c_out_per_group, kh, kw)
        return split.permute(0, 2, 3, 4, 1).reshape(module.out_channels, kh, kw, -1)
    return weight.permute(0, 2, 3, 1)


def from_canonical(rows: Tensor, module: PrunableModule) -> Tensor:
    """Undo `canonical`: bring `[c_out, kh, kw, c_in / groups]` to the shape of `module`'s weight.

    The result is a copy with the strides of a newly built weight. (`contiguous` would keep those of
    a 1x1 kernel, and torch would treat it as channels-last and round differently.)
    """
    if isinstance(module, nn.Linear):
        return rows[:, 0, 0, :].clone(memory_format=torch.contiguous_format)
    if isinstance(module, nn.ConvTranspose2d):
        c_out, kh, kw, c_in_per_group = rows.shape
        split = rows.reshape(module.groups, c_out // module.groups, kh, kw, c_in_per_group)
        weight = split.permute(0, 4, 1, 2, 3)
        weight = weight.reshape(module.in_channels, c_out // module.groups, kh, kw)
    else:
        weight = rows.permute(0, 3, 1, 2)
    return weight.clone(memory_format=torch.contiguous_format)


def in_groups(rows: Tensor, m: int, fill: float) -> Tensor:
    """Split canonical `rows` into groups `[G, m]`; a short last group is padded with `fill`."""
    remainder = -rows.shape[-1] % m
    if remainder:
        rows = torch.nn.functional.pad(rows, (0, remainder), value=fill)
    return rows.reshape(-1, m)


def from_groups(groups: Tensor, shape: torch.Size) -> Tensor:
    """Undo `in_groups`: drop the padding and return rows of the canonical `shape`."""
    m, channels = groups.shape[1], shape[-1]
    padded = -(-channels // m) * m
    return groups.reshape(*shape[:-1], padded)[..., :channels]
