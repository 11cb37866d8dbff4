"""Knowledge distillation: training targets blended with, or replaced by, a dense network's output.

Hinton et al., "Distilling the knowledge in a neural network", 2015, applied to images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thinlens.errors import UsageError
from thinlens.models.running import evaluating
from thinlens.training.objective import TrainingData, input_batch


class DistilledTargets:
    """Training data whose targets are blended with the outputs of a dense teacher.

    A true target holds detail that no network can restore, which is noise to the loss of a pruned
    network; the teacher's output holds only what a network can represent. At weight 1 no true
    target is read, so that the data may hold inputs alone, and the teacher runs only when a target
    is read.
    """

    def __init__(self, data: TrainingData, teacher: nn.Module, weight: float) -> None:
        """Blend targets: `weight` (0 to 1) of the teacher's output, the rest of the true target.

        The teacher is run in evaluation mode and not changed.
        """
        if not 0 <= weight <= 1:
            raise UsageError(f"distill_weight {weight}: wanted a fraction of the target, 0 to 1")
        self._data, self._teacher, self._weight = data, teacher, weight

    def input(self, seed: int, epoch: int, step: int) -> Tensor:
        """Return the input of a batch, of the teacher's type of numbers."""
        return self._as_weights(input_batch(self._data, seed, epoch, step))

    def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the input and the blended target."""
        if self._weight == 1:
            image = self.input(seed, epoch, step)
            return image, self._output(image)
        image, target = map(self._as_weights, self._data.batch(seed, epoch, step))
        if not self._weight:
            return image, target
        output = self._output(image)
        if output.shape != target.shape:
            raise UsageError(
                f"targets shaped {tuple(target.shape)} where the network returns "
                f"{tuple(output.shape)}: wanted targets of its size, or inputs alone"
            )
        return image, target.lerp(output.to(target), self._weight)

    def _output(self, image: Tensor) -> Tensor:
        with torch.no_grad(), evaluating(self._teacher):
            output: Tensor = self._teacher(image)
        return output

    def _as_weights(self, image: Tensor) -> Tensor:
        """Bring an image to the device and the type of numbers of the teacher's weights."""
        weights = (p for p in self._teacher.parameters() if p.is_floating_point())
        weight = next(weights, image)
        return image.to(weight.device, weight.dtype)
