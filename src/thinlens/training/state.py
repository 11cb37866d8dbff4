"""Training state and metrics on disk, for a bit-identical resume after kill -9."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thinlens.errors import RunError, UsageError
from thinlens.files import JsonLines, atomic_write
from thinlens.temporary_files import sweep_leftovers

log = logging.getLogger(__name__)

STATE_KEYS = {"settings", "counters", "module", "optimizer", "objective"}

MOST_BAD_STEPS = 10
"""Non-finite steps in a row after which a run stops with an error."""


@dataclass
class Counters:
    """Progress of a run."""

    step: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    loss_sum: float = 0.0
    losses: int = 0

    @property
    def mean_loss(self) -> float:
        """The mean loss since the last line of metrics; NaN when every step was skipped."""
        return self.loss_sum / self.losses if self.losses else math.nan

    def count(self, loss: float, finite: bool, batch: tuple[int, int, int]) -> None:
        """Count one step on batch (seed, epoch, step).

        Raises `RunError` after `MOST_BAD_STEPS` non-finite ones in a row.
        """
        self.step += 1
        if finite:
            self.bad_in_a_row, self.loss_sum, self.losses = 0, self.loss_sum + loss, self.losses + 1
            return
        self.bad_in_a_row, self.skipped = self.bad_in_a_row + 1, self.skipped + 1
        log.warning("skipped the batch at (seed, epoch, step) %s: not finite", batch)
        if self.bad_in_a_row == MOST_BAD_STEPS:
            raise RunError(
                f"{MOST_BAD_STEPS} steps in a row gave NaN or infinity (the last: step "
                f"{self.step}): try a lower learning rate"
            )

    def reset_losses(self) -> None:
        """Start a new mean."""
        self.loss_sum, self.losses = 0.0, 0


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the training state atomically: the previous one stays until this one is whole."""
    with atomic_write(path) as file:
        torch.save(state, file)


def load_state(path: Path) -> dict[str, Any] | None:
    """Read the training state at `path`, or return None when there is none.

    Incomplete files of killed runs in its folder are removed first.
    """
    sweep_leftovers(path.parent)
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if STATE_KEYS - set(state):
            raise ValueError(f"wanted {STATE_KEYS}")
    except Exception as error:
        raise UsageError(
            f"{path} is not a training state of thinlens ({type(error).__name__}): "
            "delete it to start the run again"
        ) from error
    return state


class MetricsLog:
    """The metrics of a run as JSON lines; a resumed run's file equals the straight run's."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self._lines = JsonLines(path)
        records = self._lines.read()
        self._lines.rewrite(record for record in records if _step_of(record) <= resumed_step)

    def append(self, step: int, values: dict[str, Any]) -> None:
        """Add one line and flush it to the disk; a value that is not finite becomes null."""
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._lines.append({"step": step, **finite}, fsync=True)


def _step_of(record: dict[str, Any]) -> float:
    step = record.get("step")
    return step if isinstance(step, int) else math.inf  # another program's line
