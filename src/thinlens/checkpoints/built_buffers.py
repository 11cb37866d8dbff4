"""Buffers that building a network gives: tables of transformers, which no checkpoint need hold.

A table of relative positions or an attention mask follows from the network's parameters. In SwinIR
and DAT such tables have several times as many bytes as the pruned weights. A checkpoint holds their
SHA-256, so that a version of the package that builds others is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thinlens.checkpoints.config_file import CheckpointConfig
from thinlens.checkpoints.safe_build import build_from_config
from thinlens.checkpoints.tensors import unique_tensors
from thinlens.errors import UsageError

SMALLEST_BUFFER = 1024
"""Bytes from which a buffer is left out: an entry in config.json takes a tenth of that."""

BUILD_SEED = 20_260_101
"""Seed of the build that is compared: buffers of random values differ from it."""


def built_buffers(module: nn.Module, manifest: CheckpointConfig) -> dict[str, str]:
    """Return the SHA-256 of each buffer of `module` that building the network gives, by name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(BUILD_SEED)
        built = unique_tensors(build_from_config(manifest))
    return {
        name: sha256_of(tensor)
        for name, tensor in unique_tensors(module).items()
        if not isinstance(tensor, nn.Parameter)
        and tensor.numel() * tensor.itemsize >= SMALLEST_BUFFER
        and name in built
        and not isinstance(built[name], nn.Parameter)
        and _equal(tensor, built[name])
    }


def check_built(tensors: Mapping[str, Tensor], manifest: CheckpointConfig) -> None:
    """Raise `UsageError` if a network was built with another buffer than the saved one had."""
    for name, sha256 in manifest.built.items():
        if sha256_of(tensors[name]) != sha256:
            versions = ", ".join(f"{key} {value}" for key, value in manifest.versions.items())
            raise UsageError(
                f"{name} is not stored, and {manifest.model} builds another one here than where "
                f"it was saved ({versions})"
            )


def sha256_of(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's values in memory order.

    >>> sha256_of(torch.zeros(2))[:8]
    'af5570f5'
    """
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def _equal(one: Tensor, other: Tensor) -> bool:
    same_form = one.shape == other.shape and one.dtype == other.dtype
    return same_form and sha256_of(one) == sha256_of(other)
