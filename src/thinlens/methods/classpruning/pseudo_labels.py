"""Pseudo labels of difficulty, from the variance of an image's degradation.

ClassPruning (Zhou et al., 2022), equations 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thinlens.errors import UsageError
from thinlens.training.objective import TrainingData

MIN_VARIANCE = 1e-10
"""Images whose degradation has less variance are skipped: it cannot be scaled."""

VARIANCE_BATCHES = 100
"""Number of batches on which the classes' variances are measured."""


@dataclass(frozen=True)
class Difficulty:
    """The typical variance of the degradation in every class, the easiest first."""

    variances: tuple[float, ...]

    def labelled(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return every image in every class, `[L B', C, h, w]`, and the classes, `[L B']`.

        `R_i = R sqrt(v_i / Var(R))` and `y_i = x + R_i`, not clipped; B' excludes the images
        without degradation.
        """
        variance = residual_variances(image, target)
        usable = variance >= MIN_VARIANCE
        residual, clean = (image - target)[usable], target[usable]
        unit = residual / variance[usable].sqrt()[:, None, None, None]
        degraded = [clean + unit * level**0.5 for level in self.variances]
        classes = torch.arange(len(degraded), device=image.device)
        return torch.cat(degraded), classes.repeat_interleave(len(clean))


def residual_variances(image: Tensor, target: Tensor) -> Tensor:
    """Return the variance of `image - target` over channels and pixels, `[B]`."""
    if image.shape != target.shape:
        raise UsageError(
            f"inputs shaped {tuple(image.shape)} and targets {tuple(target.shape)}: classpruning "
            "tells difficulty from their difference, so it wants one size"
        )
    return (image - target).flatten(1).var(dim=1, correction=0)


def measure_difficulty(
    data: TrainingData, seed: int, classes: int, batches: int = VARIANCE_BATCHES
) -> Difficulty:
    """Split training images into `classes` equal classes by the variance of their degradation.

    The variance of a class is its median. Raises `UsageError` where a class would be empty.
    """
    variances = torch.cat(
        [residual_variances(*data.batch(seed, 0, step)) for step in range(batches)]
    )
    usable = variances[variances >= MIN_VARIANCE].sort().values
    if len(usable) < classes:
        raise UsageError(
            f"{len(usable)} of {len(variances)} training images differ from their targets: wanted "
            f"at least one for each of {classes} classes of difficulty"
        )
    split = usable.tensor_split(classes)
    return Difficulty(tuple(float(one.median()) for one in split))
