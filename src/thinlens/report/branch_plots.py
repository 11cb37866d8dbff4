"""Figures of routed networks: restorations by every branch, and branch shares during training.

ClassPruning (Zhou et al., 2022), Figs. 4 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from thinlens.dynamic.samples import BranchImages
from thinlens.errors import UsageError
from thinlens.files import JsonLines
from thinlens.report.layer_plots import figure_class, save_figure
from thinlens.report.search_plots import RUN_COLOURS

CHOSEN = "#6b21a8"
"""The colour of the frame around the selected branch, as in the paper."""

PANELS_IN_A_ROW = 4
"""Panels of `draw_branch_shares` in one row."""

SIDE = 128
"""Side of the central crop that is shown, in pixels."""


def draw_branch_restorations(
    path: Path, samples: Mapping[str, BranchImages], names: Sequence[str]
) -> None:
    """Draw images restored by every branch (ClassPruning, Fig. 4) as a PNG at `path`.

    `samples` maps the label of a row to its images, `names` are those of the branches. The branch
    that the classifier selects has a purple frame. Needs the extra `plots`.
    """
    if not samples:
        raise UsageError("there is no image to draw")
    columns = len(names) + 2
    figure = figure_class()(figsize=(1.9 * columns, 2.2 * len(samples)), layout="constrained")
    axes = figure.subplots(len(samples), columns, squeeze=False)
    for row, (label, sample) in zip(axes, samples.items(), strict=True):
        panels = [("input", sample.degraded), *zip(names, sample.restored, strict=True)]
        for axis, (title, image) in zip(row, [*panels, ("target", sample.target)], strict=True):
            _show(axis, image)
            axis.set_title(title, fontsize="small")
        row[0].set_ylabel(label, fontsize="small")
        for branch, (axis, decibels) in enumerate(zip(row[1:-1], sample.psnr, strict=True)):
            axis.set_xlabel(f"{decibels:.2f} dB", fontsize="small")
            if branch == sample.chosen:
                for edge in axis.spines.values():
                    edge.set(color=CHOSEN, linewidth=3)
    save_figure(path, figure)


def draw_branch_shares(
    path: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]], names: Sequence[str]
) -> None:
    """Draw the share of images of every branch by training step as a PNG at `path`.

    ClassPruning, Fig. 5: one panel for each of `runs`, results of `read_branch_shares` by label.
    `names` are those of the branches, of which a run may have fewer. Needs the extra `plots`.
    """
    if not any(runs.values()):
        raise UsageError("there is no training log to draw")
    columns = min(len(runs), PANELS_IN_A_ROW)
    grid_rows = -(-len(runs) // columns)
    figure = figure_class()(figsize=(4.2 * columns, 3.4 * grid_rows), layout="constrained")
    axes = list(figure.subplots(grid_rows, columns, sharey=True, squeeze=False).flat)
    for spare in axes[len(runs) :]:
        spare.remove()
    for axis, (label, rows) in zip(axes, runs.items(), strict=False):
        for index, name in enumerate(names):
            if not all(f"share_{index}" in row for row in rows):
                continue  # a network of fewer branches
            steps = [row["step"] for row in rows]
            shares = [row[f"share_{index}"] for row in rows]
            colour = RUN_COLOURS[index % len(RUN_COLOURS)]
            axis.plot(steps, shares, color=colour, linewidth=1, label=name)
        axis.set_title(label, fontsize="medium")
        axis.set_xlabel("step")
        axis.set_ylim(-0.02, 1.02)
    axes[0].set_ylabel("share of the images")
    axes[0].legend(loc="upper right", fontsize="small")
    save_figure(path, figure)


def read_branch_shares(folder: Path) -> list[dict[str, Any]]:
    """Read the branch shares of a run's last stage from its log in `folder`, if any."""
    rows = JsonLines(folder / "metrics-joint.jsonl").read()
    return [row for row in rows if isinstance(row.get("share_0"), int | float)]


def _show(axis: Any, image: Tensor) -> None:
    height, width = image.shape[-2:]
    top, left = max(0, (height - SIDE) // 2), max(0, (width - SIDE) // 2)
    crop = image[:, top : top + SIDE, left : left + SIDE].permute(1, 2, 0).numpy()
    grey_scale = {"cmap": "gray", "vmin": 0, "vmax": 255} if crop.shape[2] == 1 else {}
    axis.imshow(crop[..., 0] if grey_scale else crop, **grey_scale)
    axis.set_xticks([])
    axis.set_yticks([])
