"""Synthetic motion blur: average an image over the random trajectory of a shaken camera.

Each impulse decays over the exposure, so the trajectory is smooth (after
Boracchi and Foi, "Modeling the performance of image restoration from motion blur", TIP 2012). It
shifts the image and rotates it about its centre, so that the blur depends on the position.
The sharp image is the one in the middle of the exposure, as in GoPro and REDS.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

POSES = 33
"""Camera poses per exposure; odd, so that one is the middle. A trajectory of 16 pixels either way
then moves by about a pixel per pose, so that no separate copies are visible."""

PERSISTENCE = 0.9
"""Factor of the velocity from pose to pose. At 0 trajectories are jagged, at 1 straight."""


def random_trajectory(generator: np.random.Generator, radius: float) -> np.ndarray:
    """Draw a trajectory `[POSES, 3]` in pixels: right, down, and the arc of a corner by rotation.

    It is 0 in the middle of the exposure, and no pixel moves farther than `radius` from there; the
    largest displacement and the fraction of rotation are random too.
    """
    directions = generator.uniform(0, 1, 3)
    impulses = generator.standard_normal((POSES, 3)) * directions
    velocity, position, path = np.zeros(3), np.zeros(3), np.zeros((POSES, 3))
    for pose, impulse in enumerate(impulses):
        velocity = PERSISTENCE * velocity + impulse
        position = position + velocity
        path[pose] = position
    path -= path[POSES // 2]
    farthest = (np.hypot(path[:, 0], path[:, 1]) + np.abs(path[:, 2])).max()
    scaled: np.ndarray = path * (generator.uniform(0, radius) / farthest)
    return scaled


def blur_along(light: Tensor, path: np.ndarray) -> Tensor:
    """Average `light` `[C, H, W]` (linear, not gamma-coded) over the poses of `path`.

    The border is replicated.
    """
    height, width = light.shape[-2:]
    radius = np.hypot(height, width) / 2
    total = torch.zeros_like(light)
    for right, down, corner in path:
        cos, sin = np.cos(corner / radius), np.sin(corner / radius)
        # in units of half the height and half the width, as affine_grid
        rows = [
            [cos, -sin * height / width, 2 * right / width],
            [sin * width / height, cos, 2 * down / height],
        ]
        pose = torch.tensor(rows, dtype=light.dtype)[None]
        grid = F.affine_grid(pose, [1, *light.shape], align_corners=False)
        total += F.grid_sample(light[None], grid, padding_mode="border", align_corners=False)[0]
    return total / len(path)
