"""How is it drawn what the branches of a routed network make of images, and who gets which?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from thinlens.dynamic.samples import BranchImages
from thinlens.errors import UsageError
from thinlens.report.plots import figure_class, save_figure
from thinlens.report.search import RUN_COLOURS

CHOSEN = "#6b21a8"
"""The colour of the box around what the classifier picks, as in the paper."""

PANELS_IN_A_ROW = 4

SIDE = 128
"""Pixels of the middle of an image that are shown; more are hard to compare."""


def samples_picture(path: Path, samples: Mapping[str, BranchImages], names: Sequence[str]) -> None:
    """Draw images as every branch restores them, as ClassPruning's Fig. 4, as a PNG at `path`.

    `samples` are by the label of their row, `names` those of the branches. The branch that the
    classifier picks has a purple box. Needs the extra `plots`.
    """
    if not samples:
        raise UsageError("there is no image to draw")
    columns = len(names) + 2
    figure = figure_class()(figsize=(1.9 * columns, 2.2 * len(samples)), layout="constrained")
    places = figure.subplots(len(samples), columns, squeeze=False)
    for row, (label, sample) in zip(places, samples.items(), strict=True):
        shown = [("input", sample.degraded), *zip(names, sample.restored, strict=True)]
        for place, (title, image) in zip(row, [*shown, ("target", sample.target)], strict=True):
            _show(place, image)
            place.set_title(title, fontsize="small")
        row[0].set_ylabel(label, fontsize="small")
        for branch, (place, decibels) in enumerate(zip(row[1:-1], sample.psnr, strict=True)):
            place.set_xlabel(f"{decibels:.2f} dB", fontsize="small")
            if branch == sample.chosen:
                for edge in place.spines.values():
                    edge.set(color=CHOSEN, linewidth=3)
    save_figure(path, figure)


def shares_picture(
    path: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]], names: Sequence[str]
) -> None:
    """Draw the share of images that each branch got while all was trained, as a PNG at `path`.

    As ClassPruning's Fig. 5: a panel for each of `runs`, which are lines of `read_shares`, by
    label. `names` are those of the branches, of which a run may have fewer. Needs `plots`, the
    extra.
    """
    if not any(runs.values()):
        raise UsageError("there is no course of training to draw")
    columns = min(len(runs), PANELS_IN_A_ROW)
    lines = -(-len(runs) // columns)
    figure = figure_class()(figsize=(4.2 * columns, 3.4 * lines), layout="constrained")
    places = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for spare in places[len(runs) :]:
        spare.remove()
    for place, (label, rows) in zip(places, runs.items(), strict=False):
        for index, name in enumerate(names):
            if not all(f"share_{index}" in row for row in rows):
                continue  # a network of fewer branches
            steps = [row["step"] for row in rows]
            shares = [row[f"share_{index}"] for row in rows]
            colour = RUN_COLOURS[index % len(RUN_COLOURS)]
            place.plot(steps, shares, color=colour, linewidth=1, label=name)
        place.set_title(label, fontsize="medium")
        place.set_xlabel("step")
        place.set_ylim(-0.02, 1.02)
    places[0].set_ylabel("share of the images")
    places[0].legend(loc="upper right", fontsize="small")
    save_figure(path, figure)


def read_shares(folder: Path) -> list[dict[str, Any]]:
    """Read where images went in the last stage of a run in `folder`; empty where none is told."""
    path = folder / "metrics-joint.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if row.get("share_0") is not None]


def _show(place: Any, image: Tensor) -> None:
    height, width = image.shape[-2:]
    top, left = max(0, (height - SIDE) // 2), max(0, (width - SIDE) // 2)
    middle = image[:, top : top + SIDE, left : left + SIDE].permute(1, 2, 0).numpy()
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if middle.shape[2] == 1 else {}
    place.imshow(middle[..., 0] if grey else middle, **grey)
    place.set_xticks([])
    place.set_yticks([])
