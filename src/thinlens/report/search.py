"""How did a search for N:M sparsity go, and does what it found depend on what layers cost?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinlens.errors import UsageError
from thinlens.report.plots import KEPT, MARKED, UNIFORM, figure_class, save_figure
from thinlens.sparsity.summary import Price

RUN_COLOURS = (KEPT, UNIFORM, "#2f855a", MARKED)
"""Colours of several runs in one picture."""

CURVES = {
    "task_loss": "task loss",
    "cost": "part kept",
    "lambda": "lambda",
    "flips": "mask flips an epoch",
}
"""What is drawn of a search's history, and what it is called."""

LEAST_LAYERS = 3
"""Fewer layers have no rank correlation worth the name."""


def rank_correlation(price: Price, *, enlarging: bool = True) -> float | None:
    """Return Spearman's correlation of a layer's kept part N / M with its dense multiply-adds.

    SLS, section 4.5: it is negative, with the up-sampling layer as the exception; `enlarging` says
    whether layers before a pixel shuffle count. None for fewer than three layers or constant N.
    """
    layers = [layer for layer in price.patterned if enlarging or not layer.enlarges]
    macs = places([layer.macs for layer in layers])
    kept = places([price.part(layer) for layer in layers])
    if len(layers) < LEAST_LAYERS or np.ptp(macs) == 0 or np.ptp(kept) == 0:
        return None
    return float(np.corrcoef(macs, kept)[0, 1])


def course_picture(path: Path, runs: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Draw how searches went, as a PNG at `path`: task loss, cost, lambda and mask flips by step.

    `runs` are records of `sls` by their label; a dot is where N was fixed. An annealed run beside
    one whose lambda is the first one's last throughout is SLS's Fig. S1. Needs the extra `plots`.
    """
    if not runs or not all(record.get("history") for record in runs.values()):
        raise UsageError("a search without a history cannot be drawn: wanted records of sls")
    figure = figure_class()(figsize=(9.0, 8.0), layout="constrained")
    axes = figure.subplots(len(CURVES), 1, sharex=True)
    for axis, (column, label) in zip(axes, CURVES.items(), strict=True):
        axis.set_ylabel(label)
        for colour, (name, record) in zip(RUN_COLOURS, runs.items(), strict=False):
            steps = [row["step"] for row in record["history"]]
            values = [row[column] for row in record["history"]]
            frozen = record["frozen_step"]
            dots = [] if frozen is None else [int(np.argmin(np.abs(np.array(steps) - frozen)))]
            axis.plot(steps, values, "-o", color=colour, markevery=dots, linewidth=1, label=name)
    for axis in (axes[0], axes[2]):
        axis.set_yscale("symlog" if axis.get_ylim()[0] <= 0 else "log")
    axes[0].set_title(title, loc="right")
    axes[0].legend(loc="upper right", fontsize="small")
    axes[-1].set_xlabel("step (dots: the budget is met and N is fixed)")
    save_figure(path, figure)


def places(values: Sequence[float]) -> NDArray[np.float64]:
    """Place values in ascending order; equal ones share the mean of their places."""
    _, inverse, counts = np.unique(np.array(values), return_inverse=True, return_counts=True)
    means = np.cumsum(counts) - (counts + 1) / 2
    return np.asarray(means[inverse], dtype=np.float64)
