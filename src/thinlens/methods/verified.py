"""Pruning whose result is verified: after a forward pass, pruned weights are still zero."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import nn

from thinlens.errors import UsageError
from thinlens.methods.method import Method
from thinlens.models.copying import copy_network
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pattern, Pruned
from thinlens.sparsity.recomputed import merge_recomputed, small_image
from thinlens.training.distillation import DistilledTargets
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData

log = logging.getLogger(__name__)


def prune_verified(
    method: Method,
    module: nn.Module,
    data: TrainingData,
    trainer: Trainer,
    milliseconds: Fraction | None = None,
    threads: int = 1,
) -> Pruned:
    """Prune `module` by `method`, within so many milliseconds if set, and verify the result.

    Weights that `module` computes in its forward pass are merged first (`merge_recomputed`); the
    record then holds `"merged": True`. It also holds the share of the network that can be pruned.
    Raises `UsageError` with the name of a layer whose zeros a forward pass changes.
    """
    merged = merge_recomputed(module, method.example)
    if merged is not module:
        log.info("weights that every forward pass computed again are plain parameters now")
    share = method.announce_share(merged)
    if milliseconds is not None:
        method = method.settle_budget(merged, milliseconds, threads)
    targets = DistilledTargets(data, merged, method.distill_weight)
    pruned = method.run(merged, targets, trainer)
    check_zeros_stay(pruned.module, pruned.patterns, method.example)
    merging = {} if merged is module else {"merged": True}
    return replace(pruned, record={**pruned.record, **share, **merging})


@torch.no_grad()
def check_zeros_stay(
    module: nn.Module, patterns: Mapping[str, Pattern], example: Sequence[int]
) -> None:
    """Raise `UsageError` unless every pruned weight is zero, before and after a forward pass.

    A copy of `module` runs once, in evaluation mode, on a small image of the channels of `example`.

    >>> layer = nn.Conv2d(2, 1, 1)
    >>> pattern = Pattern(torch.tensor([[[[True]], [[False]]]]), n=1, m=2)
    >>> check_zeros_stay(nn.Sequential(layer), {"0": pattern}, (1, 2, 8, 8))
    Traceback (most recent call last):
    thinlens.errors.UsageError: layer '0' has weights where its mask has none, 1 of 1: ...
    """
    if not patterns:
        return
    network = copy_network(module).eval()
    _check_zeros(network, patterns, "its weight is set outside of pruning")
    network(small_image(network, example))
    _check_zeros(network, patterns, "a forward pass sets its weight")


def _check_zeros(network: nn.Module, patterns: Mapping[str, Pattern], reason: str) -> None:
    for name, pattern in patterns.items():
        weight = prunable_layer(network, name).weight
        pruned = ~pattern.mask.to(weight.device)
        kept = int(weight[pruned].count_nonzero())
        if kept:
            raise UsageError(
                f"layer {name!r} has weights where its mask has none, {kept} of "
                f"{int(pruned.sum())}: {reason}, so this network cannot be pruned"
            )
