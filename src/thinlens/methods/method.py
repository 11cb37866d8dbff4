"""What does a pruning method take, and what does it give back?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn
from torch.nn.utils import parametrize

from thinlens.errors import UsageError
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pruned
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData
from thinlens.training.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to choose patterns and surviving values that keeps a part of a cost.

    Entries of `METHODS` are frozen dataclasses: their fields are the method's settings.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings by the name that `--preset` takes."""
    DEFAULT_PRESET: ClassVar[str | None] = None

    budget: Budget
    """The part of the cost that is kept."""
    example: tuple[int, ...]
    """The shape of an input on which layers are priced, such as (1, 3, 180, 320)."""
    taught: float = 0.0
    """The part of a training target that is what the dense network makes of the input, 0 to 1."""

    @classmethod
    def preset(cls, name: str | None, **settings: Any) -> Self:
        """Make the method with the settings of a preset; `settings` take precedence."""
        name = name or cls.DEFAULT_PRESET
        if name is None:
            return cls(**settings)
        if name not in cls.PRESETS:
            known = ", ".join(cls.PRESETS) or "none: this method has no presets"
            raise UsageError(f"preset {name!r}: wanted {known}")
        return cls(**{**cls.PRESETS[name], **settings})

    @abstractmethod
    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a thin network; `model` is never changed.

        Training-free methods use `data` to calibrate and leave `trainer` alone.
        """


def check_l1(settings: Settings, what: str) -> None:
    """Raise `UsageError` unless the task's loss is L1, against which `what` is weighed."""
    if settings.loss != "l1":
        raise UsageError(f"loss {settings.loss}: {what} is weighed against l1, as in the paper")


def refuse_parametrized(model: nn.Module, names: Iterable[str]) -> None:
    """Raise `UsageError` if the weight of a named layer is computed, so that it cannot be set."""
    for name in names:
        if parametrize.is_parametrized(prunable_layer(model, name), "weight"):
            raise UsageError(
                f"the weight of layer {name!r} is parametrized, so it cannot be set: take it "
                "off with torch.nn.utils.parametrize.remove_parametrizations before pruning"
            )
