"""Figures of N:M searches (SLS, Figs. 6 and S1), and the rank correlation of N with layer cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from thinlens.adaptive.estimator import average_ranks
from thinlens.errors import UsageError
from thinlens.report.layer_plots import (
    ENLARGING_COLOUR,
    KEPT_COLOUR,
    UNIFORM_COLOUR,
    draw_layers,
    figure_class,
    save_figure,
)
from thinlens.sparsity.summary import CostSummary

RUN_COLOURS = (KEPT_COLOUR, UNIFORM_COLOUR, "#2f855a", ENLARGING_COLOUR)
"""Colours of several runs in one figure."""

CURVES = {
    "task_loss": "task loss",
    "cost": "fraction kept",
    "lambda": "lambda",
    "flips": "mask flips an epoch",
}
"""Columns of a search's history that are drawn, with their labels."""

MIN_LAYERS = 3
"""Layers from which a rank correlation is computed."""


def rank_correlation(price: CostSummary, *, enlarging: bool = True) -> float | None:
    """Return Spearman's correlation of N / M with dense multiply-adds over the layers.

    SLS, section 4.5: it is negative, with the up-sampling layer as the exception; `enlarging`
    includes layers before a pixel shuffle. None for fewer than three layers or constant N.
    """
    layers = [layer for layer in price.pruned_layers if enlarging or not layer.before_pixel_shuffle]
    macs = average_ranks([layer.macs for layer in layers])
    kept = average_ranks([price.kept_fraction(layer) for layer in layers])
    if len(layers) < MIN_LAYERS or np.ptp(macs) == 0 or np.ptp(kept) == 0:
        return None
    return float(np.corrcoef(macs, kept)[0, 1])


def draw_searches(path: Path, runs: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Draw task loss, cost, lambda and mask flips of searches by step as a PNG at `path`.

    `runs` maps labels to records of `sls`; a dot marks the step at which N was fixed. An annealed
    run beside one with a constant lambda is SLS's Fig. S1. Needs the extra `plots`.
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


def draw_search(
    folder: Path, name: str, price: CostSummary, record: Mapping[str, Any], title: str
) -> list[str]:
    """Draw layers.png and search.png (SLS, Figs. 6 and S1) into `folder`; return a summary.

    `record` is that of method `name`; without a search history nothing is drawn.
    """
    if not record.get("history"):
        return []
    try:
        draw_layers(folder / "layers.png", price, title)
        draw_searches(folder / "search.png", {name: record}, title)
    except UsageError as problem:
        return [f"no pictures: {problem}"]
    correlation = rank_correlation(price)
    trend = (
        ""
        if correlation is None
        else f"; rank correlation of N and multiply-adds {correlation:+.2f}"
    )
    return [f"{folder / 'layers.png'}: N of every layer; search.png: the search{trend}"]
