"""Knowledge distillation: training targets blended with a dense network's outputs.

Hinton et al., "Distilling the knowledge in a neural network", 2015, applied to images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.training.objective import TrainingData


class DistilledTargets:
    """Training data whose targets are blended with the outputs of a dense teacher.

    A true target holds detail that no network can restore, which is noise to the loss of a pruned
    network; the teacher's output holds only what a network can represent.
    """

    def __init__(self, data: TrainingData, teacher: nn.Module, weight: float) -> None:
        """Blend targets: `weight` (0 to 1) of the teacher's output, the rest of the true target.

        The teacher is run in evaluation mode and not changed.
        """
        if not 0 <= weight <= 1:
            raise UsageError(f"distill_weight {weight}: wanted a fraction of the target, 0 to 1")
        self._data, self._teacher, self._weight = data, teacher, weight

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the input and the blended target."""
        image, target = self._data.batch(seed, epoch, step)
        if not self._weight:
            return image, target
        training = self._teacher.training
        try:
            with torch.no_grad():
                output = self._teacher.eval()(image)
        finally:
            self._teacher.train(training)
        return image, target.lerp(output.to(target), self._weight)
