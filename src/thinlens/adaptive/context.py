"""The context of a tile router: candidates, estimator, tiling and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thinlens.adaptive.candidates import Candidate, Macs
from thinlens.adaptive.cost_model import CostModel, macs_model
from thinlens.adaptive.estimator import Estimator
from thinlens.images.tiles import Tiling


@dataclass(frozen=True, eq=False)
class RouterContext:
    """The networks that restore tiles, and the estimator that selects among them."""

    candidates: Sequence[Candidate]
    """The most expensive first; the last is the fallback."""
    estimator: Estimator
    estimator_macs: Macs
    tiling: Tiling
    exact: bool
    """Whether networks get the position of a tile in the image."""
    channels: int
    """The networks'; an RGB image goes through grey ones channel by channel."""
    estimator_names: tuple[str, ...] = ("", "")
    """The estimator's fingerprint, then that of earlier versions."""
    latency: CostModel | None = None
    """Costs in milliseconds; None: tiles cost their multiply-adds."""

    @property
    def cost_model(self) -> CostModel:
        return self.latency or macs_model(self.candidates, self.estimator_macs)
