"""What does a camera see that moves while its shutter is open?

A camera held by hand shakes: each push decays over the exposure, and so the path is smooth (after
Boracchi and Foi, "Modeling the performance of image restoration from motion blur", TIP 2012). It
shifts the image and turns it about its centre; the turn makes the blur differ from place to place.
The sharp image is the one in the middle of the exposure, as in GoPro and REDS.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

POSES = 33
"""Moments of the exposure; odd, so that one is the middle. A path of 16 pixels either way then
moves about a pixel from one to the next, which leaves no ghosts."""

PERSISTENCE = 0.9
"""Part of the velocity that a 33rd of the exposure leaves. At 0 paths are jagged, at 1 straight."""


def trajectory(generator: np.random.Generator, reach: float) -> np.ndarray:
    """Draw a path `[POSES, 3]` in pixels: right, down, and what the turn moves a corner by.

    It passes 0 in the middle of the exposure, and no pixel moves farther than `reach` from there;
    how far the farthest one gets, and how much of it is turning, is drawn too.
    """
    directions = generator.uniform(0, 1, 3)
    pushes = generator.standard_normal((POSES, 3)) * directions
    velocity, place, path = np.zeros(3), np.zeros(3), np.zeros((POSES, 3))
    for moment, push in enumerate(pushes):
        velocity = PERSISTENCE * velocity + push
        place = place + velocity
        path[moment] = place
    path -= path[POSES // 2]
    farthest = (np.hypot(path[:, 0], path[:, 1]) + np.abs(path[:, 2])).max()
    scaled: np.ndarray = path * (generator.uniform(0, reach) / farthest)
    return scaled


def blurred(light: Tensor, path: np.ndarray) -> Tensor:
    """Average `light` `[C, H, W]` (linear, not gamma-coded) over the poses of `path`.

    Beyond its border an image goes on as it ends there.
    """
    height, width = light.shape[-2:]
    radius = np.hypot(height, width) / 2
    total = torch.zeros_like(light)
    for right, down, corner in path:
        cos, sin = np.cos(corner / radius), np.sin(corner / radius)
        # in units of half the height and half the width, as torch wants them
        rows = [
            [cos, -sin * height / width, 2 * right / width],
            [sin * width / height, cos, 2 * down / height],
        ]
        pose = torch.tensor(rows, dtype=light.dtype)[None]
        grid = F.affine_grid(pose, [1, *light.shape], align_corners=False)
        total += F.grid_sample(light[None], grid, padding_mode="border", align_corners=False)[0]
    return total / len(path)
