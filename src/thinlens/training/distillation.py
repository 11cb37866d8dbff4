"""How does a dense network teach its thin copy? (Hinton et al., 2015, for images)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.training.objective import TrainingData


class DistilledTargets:
    """Training data whose targets lean towards what a dense network makes of the inputs.

    A photograph holds detail that nobody could have restored, and to a thin network's loss that is
    noise; what the dense network makes holds only what a network can learn.
    """

    def __init__(self, data: TrainingData, teacher: nn.Module, share: float) -> None:
        """Blend targets: `share` (0 to 1) of the teacher's image and the rest of the true one.

        The teacher is run as it is given, in evaluation mode.
        """
        if not 0 <= share <= 1:
            raise UsageError(f"taught {share}: wanted a part of the target, 0 to 1")
        self._data, self._teacher, self._share = data, teacher, share

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the input and the blended target."""
        image, target = self._data.batch(seed, epoch, step)
        if not self._share:
            return image, target
        training = self._teacher.training
        try:
            with torch.no_grad():
                answer = self._teacher.eval()(image)
        finally:
            self._teacher.train(training)
        return image, target.lerp(answer.to(target), self._share)
