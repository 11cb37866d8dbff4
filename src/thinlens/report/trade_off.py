"""How are quality and cost drawn, of a choice between networks and of each network alone?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.report.plots import MARKED, figure_class, save_figure
from thinlens.report.search import RUN_COLOURS

Points = Sequence[tuple[float, float]]
"""(cost, PSNR)."""


@dataclass(frozen=True)
class Axis:
    """One kind of cost."""

    label: str
    static: Mapping[str, tuple[float, float]]
    """Each network alone."""
    curves: Mapping[str, Points]


def trade_off_picture(path: Path, axes: Sequence[Axis], title: str) -> None:
    """Draw PSNR against each kind of cost side by side, as SLS's Fig. 7, as a PNG at `path`.

    Networks alone are red points that a dashed line joins. Needs the extra `plots`.
    """
    if not any(axis.curves for axis in axes):
        raise UsageError("there is no curve to draw")
    figure = figure_class()(figsize=(5.2 * len(axes), 4.4), layout="constrained")
    places = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for place, axis in zip(places, axes, strict=True):
        for number, (name, points) in enumerate(axis.curves.items()):
            colour = RUN_COLOURS[number % (len(RUN_COLOURS) - 1)]
            line = "-o" if number < len(RUN_COLOURS) - 1 else ":"
            place.plot(*_columns(points), line, color=colour, markersize=2.5, label=name)
        static = sorted(axis.static.values())
        place.plot(*_columns(static), "--s", color=MARKED, markersize=6, label="one network")
        for name, at in axis.static.items():
            place.annotate(name, at, textcoords="offset points", xytext=(4, -12), fontsize=8)
        place.set_xlabel(axis.label)
        place.grid(alpha=0.3)
    places[0].set_ylabel("PSNR (dB)")
    places[0].legend(loc="lower right", fontsize="small")
    places[-1].set_title(title, loc="right", fontsize="medium")
    save_figure(path, figure)


def calibration_picture(
    path: Path, calibrations: Mapping[str, Mapping[str, Points]], title: str
) -> None:
    """Draw true against estimated log10 errors of every candidate, one panel for each estimator.

    Each dot is a tenth of the held-out tiles; on the dashed line estimates are right on average.
    Needs the extra `plots`.
    """
    figure = figure_class()(figsize=(4.4 * len(calibrations), 4.2), layout="constrained")
    places = figure.subplots(1, len(calibrations), sharex=True, sharey=True, squeeze=False)[0]
    for place, (name, candidates) in zip(places, calibrations.items(), strict=True):
        for colour, (candidate, points) in zip(RUN_COLOURS, candidates.items(), strict=False):
            place.plot(*_columns(points), "o", color=colour, markersize=4, label=candidate)
        _diagonal(place)
        place.set_title(name, fontsize="medium")
        place.set_xlabel("estimated log10 MSE")
    places[0].set_ylabel("true log10 MSE")
    places[0].legend(loc="upper left", fontsize="small")
    figure.suptitle(title, fontsize="medium")
    save_figure(path, figure)


def _diagonal(place: Any) -> None:
    low, high = place.get_xlim()
    place.plot((low, high), (low, high), "--", color="#718096", linewidth=1)


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
