"""What does a pruning method take, and what does it give back?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from thinlens.sparsity.pattern import Pattern
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData


@dataclass(frozen=True)
class Pruned:
    """A thin network."""

    module: nn.Module
    """Plain, of the class that was given, with its zeros in place."""
    patterns: dict[str, Pattern]
    """The masks by layer name; nothing re-ranks the module after this."""
    record: dict[str, Any] = field(default_factory=dict)
    """What the method wants remembered: budget, achieved, seconds, settings."""


class Method(Protocol):
    """A way to choose patterns and surviving values. Entries of `METHODS` are its frozen
    dataclasses: their fields are the method's settings."""

    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a thin network; `model` is never changed.

        Training-free methods use `data` to calibrate and leave `trainer` alone.
        """
        ...
