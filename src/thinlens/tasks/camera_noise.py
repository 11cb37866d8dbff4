"""Poisson-Gaussian noise of a camera: photons are counted, and the counter adds noise of its own.

Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data"
(IEEE TIP 2008). A sensor counts linear light, so that stored values, which are gamma-coded, have
most of the noise in the dark.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

GAMMA = 2.2
"""Exponent of stored values for linear light."""


def add_camera_noise(
    image: Tensor, photons: float, readout: float, generator: np.random.Generator
) -> Tensor:
    """Return float `[C, h, w]` in [0, 1] as a sensor sees it, gamma-coded again.

    White is `photons` photons on average, and `readout` is the standard deviation of the counter,
    in photons. The result is clipped below 0, as no light has a root, and not above 1.

    >>> dark, light = torch.full((1, 64, 64), 0.2), torch.full((1, 64, 64), 0.9)
    >>> noise = [add_camera_noise(x, 200, 2, np.random.default_rng(0)).std() for x in (dark, light)]
    >>> bool(noise[0] > noise[1])
    True
    """
    light = image.clamp(0, 1).double().numpy() ** GAMMA
    counts = generator.poisson(light * photons) + generator.normal(0, readout, light.shape)
    stored: np.ndarray = (np.maximum(counts, 0) / photons) ** (1 / GAMMA)
    return torch.from_numpy(stored).float()
