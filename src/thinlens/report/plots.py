"""How is it drawn how many weights each layer keeps, and what that costs?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.files import atomic_write
from thinlens.sparsity.summary import Price

DENSE, KEPT, UNIFORM, MARKED = "#c9ced6", "#2b6cb0", "#d97706", "#c53030"
"""Colours: what was there, what is left, the even share, a layer that enlarges the image."""

DOTS_PER_INCH = 110


def layers_picture(path: Path, price: Price, title: str) -> None:
    """Draw the layers that have a pattern, sorted by dense multiply-adds, as a PNG at `path`.

    As SLS's Fig. 6: above what each layer cost and costs, below the N that it keeps. Layers before
    a pixel shuffle are red; a line is the uniform pattern of that cost. Needs the extra `plots`.
    """
    layers = sorted(price.patterned, key=lambda layer: layer.macs)
    if not layers:
        raise UsageError("no layer has a pattern: there is nothing to draw")
    m = max(layer.m or 1 for layer in layers)
    parts = [price.part(layer) for layer in layers]
    left = [layer.macs / 1e9 * part for layer, part in zip(layers, parts, strict=True)]
    colours = [MARKED if layer.enlarges else KEPT for layer in layers]
    places = range(len(layers))

    figure = figure_class()(figsize=(max(6.0, 0.17 * len(layers) + 1.5), 5.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.bar(places, [layer.macs / 1e9 for layer in layers], color=DENSE, label="dense")
    above.bar(places, left, color=colours, label="kept")
    above.set_ylabel("GMACs")
    above.set_title(title, loc="right", fontsize="medium")
    above.legend(loc="upper left", fontsize="small")
    below.bar(places, [part * m for part in parts], color=colours)
    below.axhline(price.budget * m, color=UNIFORM, label=f"uniform, {price.budget:.1%}")
    below.set_ylabel(f"N of M = {m}")
    below.set_ylim(0, m)
    below.set_xticks(places, [layer.name for layer in layers], rotation=90, fontsize=6)
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
    """Write a figure as a PNG, whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
