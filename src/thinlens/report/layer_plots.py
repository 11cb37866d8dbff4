"""Figures of N:M budgets by layer (SLS, Fig. 6), and the colours and files of all figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.files import atomic_write
from thinlens.sparsity.summary import CostSummary

DENSE_COLOUR, KEPT_COLOUR, UNIFORM_COLOUR, ENLARGING_COLOUR = (
    "#c9ced6",
    "#2b6cb0",
    "#d97706",
    "#c53030",
)
"""Colours: dense, kept, the uniform budget, a layer before a pixel shuffle."""

DOTS_PER_INCH = 110
"""Resolution of PNG files."""


def draw_layers(path: Path, price: CostSummary, title: str) -> None:
    """Draw the layers that have a pattern, by dense multiply-adds, as a PNG at `path`.

    SLS, Fig. 6: dense and kept multiply-adds of every layer above, its N below. Layers before a
    pixel shuffle are red; a line shows the uniform pattern of the same cost. Needs the extra
    `plots`.
    """
    layers = sorted(price.pruned_layers, key=lambda layer: layer.macs)
    if not layers:
        raise UsageError("no layer has a pattern: there is nothing to draw")
    m = max(layer.m or 1 for layer in layers)
    fractions = [price.kept_fraction(layer) for layer in layers]
    kept = [layer.macs / 1e9 * fraction for layer, fraction in zip(layers, fractions, strict=True)]
    colours = [ENLARGING_COLOUR if layer.before_pixel_shuffle else KEPT_COLOUR for layer in layers]
    positions = range(len(layers))

    figure = figure_class()(figsize=(max(6.0, 0.17 * len(layers) + 1.5), 5.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.bar(positions, [layer.macs / 1e9 for layer in layers], color=DENSE_COLOUR, label="dense")
    above.bar(positions, kept, color=colours, label="kept")
    above.set_ylabel("GMACs")
    above.set_title(title, loc="right", fontsize="medium")
    above.legend(loc="upper left", fontsize="small")
    below.bar(positions, [fraction * m for fraction in fractions], color=colours)
    below.axhline(price.budget * m, color=UNIFORM_COLOUR, label=f"uniform, {price.budget:.1%}")
    below.set_ylabel(f"N of M = {m}")
    below.set_ylim(0, m)
    below.set_xticks(positions, [layer.name for layer in layers], rotation=90, fontsize=6)
    below.set_xlim(-0.7, len(layers) - 0.3)
    below.legend(loc="upper left", fontsize="small")
    save_figure(path, figure)


def figure_class() -> Any:
    """Return matplotlib's figure class, which draws without a display.

    Raises `UsageError` where the extra `plots` is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("drawing needs matplotlib: pip install 'thinlens[plots]'") from error
    return Figure


def save_figure(path: Path, figure: Any) -> None:
    """Write a figure as a PNG, atomically."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
