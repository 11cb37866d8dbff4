"""Adaptation: make a bundle of pruned networks and train its estimator (SLS, section 3.6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from thinlens.adaptive.bundle import USES, Bundle, network_use
from thinlens.adaptive.candidates import collect_candidates, common_task
from thinlens.adaptive.estimator import (
    HD_STEM,
    SR_STEM,
    TRAINING,
    Estimator,
    LearnedEstimator,
    evaluate_estimator,
    train_cnn,
    train_estimator,
)
from thinlens.adaptive.laplacian import fit_laplacian
from thinlens.adaptive.tile_errors import ErrorMeasurement, measure_tile_errors, outer_size
from thinlens.checkpoints.format import Checkpoint
from thinlens.errors import UsageError, check_choice
from thinlens.images.tiles import SLS_TILINGS, Tiling
from thinlens.progress import Progress
from thinlens.restoration.network import EngineFactory
from thinlens.restoration.receptive_field import measure_receptive_field
from thinlens.tasks.task import Task
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

ERRORS_FILE = "errors.jsonl"
"""The log of measured errors in the folder of a bundle."""


@dataclass(frozen=True)
class AdaptOptions:
    """Tiling and estimator of a bundle."""

    tile: tuple[int, int] | None = None
    """(height, width) of the cores in pixels; None: the paper's."""
    margin: int | None = None
    """Pixels around them; None: the paper's, or, if `exact`, what the candidates need."""
    exact: bool = False
    """Whether tiles must equal the whole image."""
    fixed_tiles: bool = False
    """Whether cores are exactly of the size `tile`, the last of a row or column smaller (SLS);
    else those of an image are of nearly equal size."""
    use: str = "learned"
    """The estimator that routes: learned, laplacian, or cnn: a network alone, as in SLS."""
    steps: int = 2000
    """Steps of the estimator's training."""
    seed: int = 0
    """Of the tiles and of the estimator's initial weights."""

    def __post_init__(self) -> None:
        if self.tile is not None and min(self.tile) < 1:
            raise UsageError(f"--tile {self.tile}: wanted at least one pixel")
        if self.margin is not None and self.margin < 0:
            raise UsageError(f"--margin {self.margin}: wanted 0 or more pixels")
        if self.exact and self.margin is not None:
            raise UsageError("--margin and --exact: the margin of exact tiles is measured")
        check_choice("--estimator", self.use, USES)


def adapt(
    checkpoints: Mapping[str, Checkpoint],
    folder: Path,
    options: AdaptOptions,
    *,
    run: EngineFactory,
    state: Path | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Train an estimator of the error that each candidate makes on tiles of a folder's images.

    `run` makes the engines of the candidates while their errors are measured. With `state`, a
    folder, an interrupted call is resumed.
    """
    task = common_task(checkpoints)
    tiling = choose_tiling(task, checkpoints, options)
    candidates = collect_candidates(checkpoints, run, outer_size(tiling))
    settings = Settings(steps=options.steps, seed=options.seed, **TRAINING)  # type: ignore[arg-type]
    measurement = ErrorMeasurement(candidates, task, tiling, options.seed)
    log = state / ERRORS_FILE if state else None
    training, held_out, images = measure_tile_errors(measurement, folder, log, progress)
    laplacian = fit_laplacian(training)
    network_kind, trainer = network_use(options.use), Trainer(settings, state, progress)
    if network_kind == "cnn":
        module = train_cnn(training, SR_STEM if task.scale > 1 else HD_STEM, trainer)
        estimator: Estimator = module
    else:
        module = train_estimator(training, laplacian, trainer)
        estimator = LearnedEstimator(module, laplacian)
    return Bundle(
        {c.name: c.checkpoint for c in candidates if c.checkpoint is not None},
        tiling,
        options.exact,
        module,
        laplacian,
        options.use,
        {
            network_kind: evaluate_estimator(estimator, held_out),
            "laplacian": evaluate_estimator(laplacian, held_out),
        },
        {
            "images": images,
            "tiles": len(training.tiles),
            "held_out_tiles": len(held_out.tiles),
            "training": asdict(settings),
        },
    )


def choose_tiling(
    task: Task, checkpoints: Mapping[str, Checkpoint], options: AdaptOptions
) -> Tiling:
    """Return the tiling of the options, by default the one of SLS."""
    paper = SLS_TILINGS.get(task.name, SLS_TILINGS["sr"])
    core, even = options.tile or paper.core, not options.fixed_tiles
    if not options.exact:
        margin = paper.margin if options.margin is None else (options.margin,) * 2
        return Tiling(core, margin, full=True, even=even)
    fields = [measure_receptive_field(c.module, task.channels) for c in checkpoints.values()]
    for name, field in zip(checkpoints, fields, strict=True):
        if not field.exact:
            raise UsageError(f"--exact: {name} cannot: {field.sentence()}")
    margin = (max(field.margin for field in fields),) * 2
    grid = math.lcm(*(field.grid for field in fields))
    return Tiling(core, margin, grid, full=True, even=even)
