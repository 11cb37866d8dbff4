"""Figures of quality against cost (SLS, Fig. 7), and of the calibration of error estimators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.report.layer_plots import ENLARGING_COLOUR, figure_class, save_figure
from thinlens.report.search_plots import RUN_COLOURS

CurvePoints = Sequence[tuple[float, float]]
"""(cost, PSNR)."""


@dataclass(frozen=True)
class CostAxis:
    """One cost metric: its label and its points."""

    label: str
    static: Mapping[str, tuple[float, float]]
    """The point of every single network, by name."""
    curves: Mapping[str, CurvePoints]


def draw_trade_off(path: Path, axes: Sequence[CostAxis], title: str) -> None:
    """Draw PSNR against every cost metric side by side (SLS, Fig. 7) as a PNG at `path`.

    Single networks are red points that a dashed line connects. Needs the extra `plots`.
    """
    if not any(axis.curves for axis in axes):
        raise UsageError("there is no curve to draw")
    figure = figure_class()(figsize=(5.2 * len(axes), 4.4), layout="constrained")
    plots = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for plot, axis in zip(plots, axes, strict=True):
        for number, (name, points) in enumerate(axis.curves.items()):
            colour = RUN_COLOURS[number % (len(RUN_COLOURS) - 1)]
            line = "-o" if number < len(RUN_COLOURS) - 1 else ":"
            plot.plot(*_columns(points), line, color=colour, markersize=2.5, label=name)
        static = sorted(axis.static.values())
        plot.plot(
            *_columns(static), "--s", color=ENLARGING_COLOUR, markersize=6, label="one network"
        )
        for name, point in axis.static.items():
            plot.annotate(name, point, textcoords="offset points", xytext=(4, -12), fontsize=8)
        plot.set_xlabel(axis.label)
        plot.grid(alpha=0.3)
    plots[0].set_ylabel("PSNR (dB)")
    plots[0].legend(loc="lower right", fontsize="small")
    plots[-1].set_title(title, loc="right", fontsize="medium")
    save_figure(path, figure)


def draw_calibration(
    path: Path, calibrations: Mapping[str, Mapping[str, CurvePoints]], title: str
) -> None:
    """Draw true against estimated log10 MSE of every candidate, one panel for each estimator.

    Each dot is a tenth of the held-out tiles; on the dashed line estimates are exact on average.
    Needs the extra `plots`.
    """
    figure = figure_class()(figsize=(4.4 * len(calibrations), 4.2), layout="constrained")
    plots = figure.subplots(1, len(calibrations), sharex=True, sharey=True, squeeze=False)[0]
    for plot, (name, candidates) in zip(plots, calibrations.items(), strict=True):
        for colour, (candidate, points) in zip(RUN_COLOURS, candidates.items(), strict=False):
            plot.plot(*_columns(points), "o", color=colour, markersize=4, label=candidate)
        _diagonal(plot)
        plot.set_title(name, fontsize="medium")
        plot.set_xlabel("estimated log10 MSE")
    plots[0].set_ylabel("true log10 MSE")
    plots[0].legend(loc="upper left", fontsize="small")
    figure.suptitle(title, fontsize="medium")
    save_figure(path, figure)


def _diagonal(plot: Any) -> None:
    low, high = plot.get_xlim()
    plot.plot((low, high), (low, high), "--", color="#718096", linewidth=1)


def _columns(points: CurvePoints) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
