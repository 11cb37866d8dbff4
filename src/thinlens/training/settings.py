"""Training settings: everything that two identical runs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from thinlens.errors import UsageError, check_choice
from thinlens.stored_values import from_stored
from thinlens.training.objective import LOSSES
from thinlens.training.schedule import SCHEDULES

CHOICES = {
    "optimizer": ("muon", "adam"),
    "schedule": tuple(SCHEDULES),
    "precision": ("fp32", "bf16"),
    "loss": tuple(LOSSES),
}
"""Values of the settings that are names."""


@dataclass(frozen=True)
class Settings:
    """How a network is trained; stored in every training state.

    >>> Settings(steps=1000, schedule="cosine").lr_factor(500)
    0.5
    """

    steps: int = 30_000
    """Batches, each of which updates the weights once."""
    seed: int = 0
    """Of initial weights and batches: the same seed and threads give the same bits."""
    learning_rate: float = 4e-3
    """The largest rate, which the schedule multiplies."""
    optimizer: str = "muon"
    """muon or adam."""
    schedule: str = "trapezoid"
    """cosine, trapezoid, step, halvings or constant."""
    floor: float = 0.0
    """The fraction of the learning rate at which the schedule ends instead of 0."""
    warmup: int = 50
    """Steps over which the learning rate rises from 0."""
    epoch_steps: int = 1000
    """Steps that count as an epoch (1000 as in EDSR's and SLS's code)."""
    save_every: int = 200
    """Steps between two training states, and between two lines of metrics."""
    precision: str = "fp32"
    """fp32 or bf16 (autocast; weights stay float32)."""
    loss: str = "l1"
    """l1 (mean absolute error) or l2 (mean square error, which is what PSNR measures)."""
    average: float = 0.0
    """The time constant of an exponential moving average of the weights, as a fraction of the run,
    which is the result; 0: the result is the last weights."""

    def __post_init__(self) -> None:
        for key, least in (("steps", 0), ("seed", 0), ("warmup", 0)):
            if getattr(self, key) < least:
                raise UsageError(f"{key} {getattr(self, key)}: wanted {least} or more")
        for key in ("epoch_steps", "save_every"):
            if getattr(self, key) < 1:
                raise UsageError(f"{key} {getattr(self, key)}: wanted 1 or more")
        if not 0 < self.learning_rate < 1:
            raise UsageError(f"learning_rate {self.learning_rate}: wanted a rate in (0, 1)")
        if not 0 <= self.floor <= 1:
            raise UsageError(f"floor {self.floor}: wanted a fraction of the learning rate, 0 to 1")
        if not 0 <= self.average <= 1:
            raise UsageError(f"average {self.average}: wanted a fraction of the run, 0 to 1")
        for key, choices in CHOICES.items():
            check_choice(key, getattr(self, key), choices)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Settings:
        """Read the settings of a training state; fields added since then have their defaults."""
        return from_stored(cls, saved, "the training settings")

    def differences(self, earlier: Settings, step: int) -> list[str]:
        """List the differences by which the first `step` steps are not those of `earlier`.

        A run's length may differ as long as no rate before `step` does; nothing else may.
        """
        new, old = asdict(self), asdict(earlier)
        if step <= self.steps and all(
            self.lr_factor(s) == earlier.lr_factor(s) for s in range(step)
        ):
            old["steps"] = self.steps
        return [f"{key} {old[key]}, not {new[key]}" for key in new if new[key] != old[key]]

    def lr_factor(self, step: int) -> float:
        """Return the learning-rate factor of step number `step`, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return warm * (self.floor + (1 - self.floor) * SCHEDULES[self.schedule](step / self.steps))
