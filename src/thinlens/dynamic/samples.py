"""Images restored by every branch of a routed network, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from thinlens.dynamic.routed import Routed
from thinlens.errors import UsageError
from thinlens.images.pixels import to_uint8
from thinlens.restoration.tiled import restore_image
from thinlens.tasks.folders import open_pairs, read_pair
from thinlens.tasks.metrics import psnr
from thinlens.tasks.task import Task


@dataclass(frozen=True, eq=False)
class BranchImages:
    """One image, restored by all branches; images are uint8 `[C, H, W]`."""

    name: str
    degraded: Tensor
    restored: tuple[Tensor, ...]
    """By branch, the smallest first."""
    psnr: tuple[float, ...]
    """In dB, by branch."""
    target: Tensor
    chosen: int
    """The branch that the classifier selects."""


@torch.no_grad()
def restore_by_branches(
    module: Routed, task: Task, folder: Path, *, index: int = 0, seed: int = 0
) -> BranchImages:
    """Restore image number `index` of a test folder by every branch, degraded as in `evaluate`.

    Raises `UsageError` where the folder has fewer images, or one whose input is of another size.
    """
    pairs = open_pairs(folder, task)
    if index >= len(pairs):
        raise UsageError(f"{folder} holds {len(pairs)} images: there is no number {index + 1}")
    image, target = read_pair(pairs[index], task, index, seed)
    if image.shape != target.shape:
        raise UsageError(f"{pairs[index].name} is not as large as its target: wanted one size")
    module.eval()
    restored = tuple(to_uint8(restore_image(branch, image)) for branch in module.extract_branches())
    return BranchImages(
        pairs[index].name,
        to_uint8(image),
        restored,
        tuple(psnr(x, target, task.protocol) for x in restored),
        target,
        int(module.classify(image[None])),
    )
