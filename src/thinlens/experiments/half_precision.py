"""What it costs to store weights in half precision, in decibels."""

from __future__ import annotations

import copy
import math
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from thinlens.experiments.photographs import skimage_calibration
from thinlens.models import image_channels
from thinlens.models.output import keep_output
from thinlens.tasks.task import Task

NOISE_SIDE = 96
"""Side in pixels of the images on which networks are compared."""

IMAGES = 3


@torch.no_grad()
def half_precision_loss(module: nn.Module, task: Task) -> float:
    """Return the PSNR in decibels between a network's images with float16 weights and without.

    The images are crops of scikit-image's photographs, or noise where they are missing. Infinite if
    the images are equal.

    >>> from thinlens.tasks import make_task
    >>> layer = nn.Conv2d(1, 1, 1, bias=False)
    >>> nn.init.constant_(layer.weight, 0.5).shape
    torch.Size([1, 1, 1, 1])
    >>> half_precision_loss(layer, make_task("denoise"))
    inf
    """
    rounded = copy.deepcopy(module)
    for values in (*rounded.parameters(), *rounded.buffers()):
        if values.is_floating_point():
            values.data = values.half().to(values.dtype)
    networks = (keep_output(module), keep_output(rounded))
    error, count = 0.0, 0
    for image in _images(task, image_channels(module)):
        expected, actual = (network(image) for network in networks)
        error += float((expected.double() - actual.double()).square().sum())
        count += expected.numel()
    return math.inf if error == 0 else -10 * math.log10(error / count)


def _images(task: Task, channels: int) -> list[Tensor]:
    if find_spec("skimage") is not None and channels == task.channels:
        crops = skimage_calibration(task)
        images = [crops.batch(0, step, 0)[0][:1] for step in range(IMAGES)]
        if all(image.shape[1] == channels for image in images):
            return images
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(1, channels, NOISE_SIDE, NOISE_SIDE, generator=generator) for _ in range(IMAGES)
    ]
