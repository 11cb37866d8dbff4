"""The interface of a pruning method: what it declares about itself, its options, and `run`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cache
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from torch import nn
from torch.nn.utils import parametrize

from thinlens.errors import UsageError, check_choice
from thinlens.methods.option_aliases import rename_options
from thinlens.sparsity.budget import Budget
from thinlens.sparsity.masking import prunable_layer
from thinlens.sparsity.pattern import Pruned
from thinlens.tasks.task import Task
from thinlens.training.loop import Trainer
from thinlens.training.objective import TrainingData
from thinlens.training.settings import Settings

BudgetBase = Literal["prunable_macs", "metric", "base_flops"]
"""The cost that a budget is a fraction of: multiply-adds of the prunable layers; the whole
network's `metric` (a field of the method: macs or params); or the mean FLOPs of an image in a
routed network, as a fraction of the unpruned network's."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to choose masks and kept weights under a budget, which is a fraction of a cost.

    Entries of `METHODS` are frozen dataclasses. Their fields are the method's options: each has a
    docstring, which is its help text, and a choice is a `Literal`, which is checked here. The
    class attributes declare what the command line and a comparison have to provide.
    """

    NAME: ClassVar[str]
    """The key in `METHODS` and the word on the command line."""
    NEEDS_STEPS: ClassVar[bool] = False
    """Whether the method prunes during training, so that a run of 0 steps is refused."""
    NEEDS_DATA: ClassVar[bool] = True
    """Whether images are read even in a run of 0 steps."""
    BUDGET_BASE: ClassVar[BudgetBase] = "prunable_macs"
    FROM_NAME: ClassVar[bool] = False
    """Whether the name of a network, which has no weights, is enough to start from."""
    GROUPED: ClassVar[bool] = False
    """Whether the list of M of a comparison applies: one run for each."""
    ROUTED: ClassVar[bool] = False
    """Whether the result is a routed network: a classifier selects a branch for each image."""
    NOT_FLAGS: ClassVar[tuple[str, ...]] = ("budget", "example", "latency", "seed")
    """Fields that are no options of the method's own on the command line."""
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Options by the name that `--preset` takes."""
    DEFAULT_PRESET: ClassVar[str | None] = None
    TRAINING_PRESETS: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {}
    """Training settings and crops by preset and the name of a task; "" for all other tasks."""

    budget: Budget
    """The fraction of the cost that is kept."""
    example: tuple[int, ...]
    """The input shape on which the cost of layers is counted, such as (1, 3, 180, 320)."""
    distill_weight: float = 0.0
    """Weight of the dense network's output in the training target, 0 to 1; the ground truth has
    the rest."""

    def __post_init__(self) -> None:
        for name, choices in _choices(type(self)).items():
            check_choice(name, getattr(self, name), choices)

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Return the names of the options that recipes, variants and `prune` accept."""
        internal = ("budget", "example", "latency")
        return tuple(field.name for field in fields(cls) if field.name not in internal)

    @classmethod
    def preset(cls, name: str | None, **options: Any) -> Self:
        """Return the method with the options of a preset; `options` take precedence."""
        name = name or cls.DEFAULT_PRESET
        if name is None:
            return cls(**options)
        if not cls.PRESETS:
            raise UsageError(f"preset {name!r}: wanted none: this method has no presets")
        check_choice("preset", name, cls.PRESETS)
        return cls(**{**cls.PRESETS[name], **options})

    @classmethod
    def configure(
        cls,
        preset: str | None = None,
        *,
        budget: Budget,
        example: tuple[int, ...],
        m: int | None = None,
        seed: int | None = None,
        options: Mapping[str, Any] = {},
    ) -> Self:
        """Return the method for a preset and single options, which may have their old names.

        `m` and `seed` are used by the methods that have such a field, unless `options` set them.
        Raises `UsageError` for an option that the method does not have.
        """
        options = rename_options(options)
        allowed = cls.option_names()
        for name in options:
            if name not in allowed:
                option_list = ", ".join(sorted(allowed))
                raise UsageError(f"{cls.NAME} has no option {name!r}: wanted {option_list}")
        shared = {"m": m, "seed": seed}
        defaults = {k: v for k, v in shared.items() if k in allowed and v is not None}
        return cls.preset(preset, budget=budget, example=example, **{**defaults, **options})

    @classmethod
    def reads_targets(cls, steps: int, preset: str | None, options: Mapping[str, Any]) -> bool:
        """Return whether a run of so many steps learns from true targets.

        One that does not learns from the dense network's outputs, so that its data may be inputs
        alone.
        """
        chosen = cls.PRESETS.get(preset or cls.DEFAULT_PRESET or "", {})
        weight = {**chosen, **rename_options(options)}.get("distill_weight", cls.distill_weight)
        return steps > 0 and weight != 1

    @classmethod
    def trains(cls, steps: int, options: Mapping[str, Any]) -> bool:
        """Return whether a run takes training crops, in place of large ones to calibrate on."""
        return steps > 0

    @classmethod
    def network_options(cls, model: nn.Module, m: int | None) -> dict[str, Any]:
        """Return the options whose defaults depend on the network and on M, if one is asked for."""
        return {}

    @classmethod
    def task_options(cls, task: Task | None) -> dict[str, Any]:
        """Return the options whose defaults depend on the task."""
        return {}

    @classmethod
    def training_preset(cls, preset: str | None, task: Task) -> dict[str, Any]:
        """Return the training settings and crops of a preset for a task; empty if it has none."""
        by_task = cls.TRAINING_PRESETS.get(preset or cls.DEFAULT_PRESET or "", {})
        return dict(by_task.get(task.name, by_task.get("", {})))

    def announce_share(self, model: nn.Module) -> dict[str, Any]:
        """Log which share of the network can be pruned; return it as entries of the record.

        Only methods whose budget is a fraction of the prunable multiply-adds have such a share.
        """
        return {}

    def settle_budget(self, model: nn.Module, milliseconds: Fraction, threads: int) -> Self:
        """Return the method with the budget that `model` needs to run in so many milliseconds.

        The time is that of one input shaped `example` in the engine on `threads` threads. Raises
        `UsageError` for a method whose budget is no time.
        """
        raise UsageError(
            f"budget {float(milliseconds):g}ms: {self.NAME} takes a part, such as 1/8, and no time"
        )

    @abstractmethod
    def run(self, model: nn.Module, data: TrainingData, trainer: Trainer) -> Pruned:
        """Return a pruned network; `model` is never changed.

        Training-free methods calibrate on `data` and do not use `trainer`.
        """

    def check_steps(self, settings: Settings) -> None:
        """Raise `UsageError` for a run of 0 steps if the method prunes during training."""
        if self.NEEDS_STEPS and settings.steps < 1:
            raise UsageError(
                f"{self.NAME} prunes while it trains: wanted a number of steps (--steps)"
            )


@cache
def _choices(method: type[Method]) -> dict[str, tuple[str, ...]]:
    """Return the choices of every field that is a `Literal`."""
    hints = get_type_hints(method)
    return {
        field.name: get_args(hints[field.name])
        for field in fields(method)
        if get_origin(hints[field.name]) is Literal
    }


def check_l1(settings: Settings, term: str) -> None:
    """Raise `UsageError` unless the task's loss is L1, relative to which `term` is scaled."""
    if settings.loss != "l1":
        raise UsageError(f"loss {settings.loss}: {term} is weighed against l1, as in the paper")


def refuse_parametrized(model: nn.Module, names: Iterable[str]) -> None:
    """Raise `UsageError` if the weight of a named layer is computed, so that it cannot be set."""
    for name in names:
        if parametrize.is_parametrized(prunable_layer(model, name), "weight"):
            raise UsageError(
                f"the weight of layer {name!r} is parametrized, so it cannot be set: take it "
                "off with torch.nn.utils.parametrize.remove_parametrizations before pruning"
            )
