"""The task of a network, where nobody states one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from thinlens.errors import UsageError
from thinlens.models import image_channels, model_entry, registry_name
from thinlens.models.running import evaluating, weight_like
from thinlens.models.source import source_of
from thinlens.tasks import make_task
from thinlens.tasks.task import Task

PROBE_SIDES = (64, 48, 128)
"""Sides of the images by which the scale of a network is measured: one fits nearly every one."""

PUBLISHED_TASKS = {
    "DnCNN": "denoise",
    "DRUNet": "denoise",
    "SCUNet": "denoise",
    "FFTformer": "deblur",
    "MixDehazeNet": "dehaze",
}
"""Tasks of spandrel's architectures of which all published weights have one."""


def described(task: Task) -> dict[str, Any]:
    """Return what a checkpoint holds of a task: `make_task(**described(task))` makes it again.

    >>> described(make_task("sr", scale=3))
    {'name': 'sr', 'scale': 3}
    """
    return {"name": task.name, **asdict(task)}  # type: ignore[call-overload]


def default_task(name: str, module: nn.Module, /, **options: Any) -> Task:
    """Return the task of the network called `name` in `MODELS`; `options` override its fields.

    An option `name` is another task, such as `denoise-jpeg` for a denoiser.
    """
    entry = model_entry(name)
    config: Any = module.config
    fields: dict[str, Any] = {}  # the other tasks are RGB, at one size
    if entry.task == "sr":
        fields = {"scale": config.scale}
    elif entry.task == "denoise":
        fields = {"channels": getattr(config, "channels", entry.channels)}
    kind = str(options.pop("name", entry.task))
    return make_task(kind, **{**fields, **options})


def foreign_task(name: str, scale: int, channels: int) -> Task:
    """Return the task of a network of another package.

    Super-resolution where it enlarges RGB images by 2, 3 or 4; what its architecture is published
    for, where that is one task; else plain restoration.

    >>> foreign_task("spandrel:ESRGAN", 4, 3), foreign_task("spandrel:SCUNet", 1, 3)
    (SuperResolution(scale=4), Denoising(channels=3, sigma=25.0, sigmas=(), sigma_range=()))
    """
    if scale in (2, 3, 4) and channels == 3:
        return make_task("sr", scale=scale)
    published = PUBLISHED_TASKS.get(name.partition(":")[2]) if scale == 1 else None
    if published == "denoise" and channels in (1, 3):
        return make_task("denoise", channels=channels)
    if published in ("deblur", "dehaze") and channels == 3:
        return make_task(published)
    return make_task("restore", scale=scale, channels=channels)


def task_fields(module: nn.Module, task: Task | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a checkpoint holds of a task, by default of what `module` is for."""
    if isinstance(task, Mapping):
        return dict(task)
    return described(measured_task(module) if task is None else task)


def measured_task(module: nn.Module) -> Task:
    """Return the task of a network that was never imported: its own, or what its scale shows."""
    name = registry_name(module)
    if name is not None:
        return default_task(name, module)
    channels = image_channels(module)
    source = source_of(module)
    name = source.name if source is not None else ""
    return foreign_task(name, _scale(module, channels), channels)


@torch.no_grad()
def _scale(module: nn.Module, channels: int) -> int:
    """Run a network on small images; return how many times larger its image is."""
    for side in PROBE_SIDES:
        try:
            with evaluating(module):
                result = module(weight_like(module).new_zeros(1, channels, side, side))
        except Exception:  # a network may raise anything on a size that it does not take
            continue
        tensors = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        images = [x for x in tensors if x.dim() == 4 and x.shape[-1] % side == 0]
        if images:
            return max(1, images[-1].shape[-1] // side)
    raise UsageError(
        f"the scale of {type(module).__name__} is not known, as it does not run on an image of "
        f"{PROBE_SIDES[0]}x{PROBE_SIDES[0]}: wanted task=make_task(...)"
    )
