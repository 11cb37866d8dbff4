"""How is it drawn how many weights each layer keeps, and what that costs?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.files import atomic_write

DENSE, KEPT, COST = "#c9ced6", "#2b6cb0", "#d97706"
"""Colours: what was there, what is left, what it costs."""


def layers_picture(path: Path, layers: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw N of every prunable layer as bars beside its multiply-adds, as a PNG at `path`.

    `layers` are the entries of `thinlens info --json`. Needs the extra `plots`.
    """
    figure_class = _figure()
    drawn = [layer for layer in layers if layer["prunable"]]
    if not drawn:
        raise UsageError("there is no prunable layer to draw")
    m = max(layer["m"] or 1 for layer in drawn)
    kept = [layer["n"] if layer["n"] is not None else m for layer in drawn]
    places = range(len(drawn))

    figure = figure_class(figsize=(max(6.0, 0.22 * len(drawn) + 1.5), 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.bar(places, [m] * len(drawn), color=DENSE, label=f"of M = {m}")
    above.bar(places, kept, color=KEPT, label="N kept")
    above.set_ylabel("N")
    above.set_title(title, loc="right")
    above.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize="small")
    below.bar(places, [layer["macs"] / 1e9 for layer in drawn], color=COST)
    below.set_ylabel("GMACs left")
    below.set_xticks(places, [layer["name"] for layer in drawn], rotation=90, fontsize=6)
    below.set_xlim(-0.7, len(drawn) - 0.3)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _figure() -> Any:
    """Return matplotlib's figure class, which draws without a display."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("drawing needs matplotlib: pip install 'thinlens[plots]'") from error
    return Figure
