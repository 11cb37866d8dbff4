"""How do several thin networks become a bundle that chooses between them?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from thinlens.adaptive.bundle import USES, Bundle
from thinlens.adaptive.candidates import (
    Candidate,
    EngineFactory,
    Macs,
    collect_candidates,
    common_task,
    count_macs,
)
from thinlens.adaptive.estimator import (
    NAME,
    SETTINGS,
    Estimator,
    LearnedEstimator,
    evaluate_estimator,
    train_estimator,
)
from thinlens.adaptive.laplacian import fit_laplacian
from thinlens.adaptive.cost_model import latency_model
from thinlens.adaptive.router import RouterContext
from thinlens.adaptive.tile_errors import ErrorMeasurement, measure_tile_errors, outer_size
from thinlens.checkpoints.format import Checkpoint
from thinlens.errors import UsageError
from thinlens.images.tiles import SLS_TILINGS, Tiling
from thinlens.models.fingerprint import settings_text
from thinlens.models.legacy_fingerprint import fingerprints, old_repr
from thinlens.progress import Progress
from thinlens.restoration.receptive_field import measure_receptive_field
from thinlens.tasks.task import Task
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

DEFAULT_CORE = SLS_TILINGS["sr"].core
"""Of tasks that SLS does not tile."""

NOTES_FILE = "errors.jsonl"
"""Of the errors that are measured, in the folder of the bundle."""


@dataclass(frozen=True)
class AdaptOptions:
    """How a bundle is made."""

    tile: tuple[int, int] | None = None
    """(height, width) of the cores; None: the paper's."""
    margin: int | None = None
    """Pixels around them; None: the paper's, or, if `exact`, what the candidates need."""
    exact: bool = False
    """Whether tiles must equal the whole image."""
    use: str = "learned"
    steps: int = 2000
    """Of the estimator's training."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tile is not None and min(self.tile) < 1:
            raise UsageError(f"--tile {self.tile}: wanted at least one pixel")
        if self.margin is not None and self.margin < 0:
            raise UsageError(f"--margin {self.margin}: wanted 0 or more pixels")
        if self.exact and self.margin is not None:
            raise UsageError("--margin and --exact: the margin of exact tiles is measured")
        if self.use not in USES:
            raise UsageError(f"--estimator {self.use!r}: wanted {' or '.join(USES)}")


def adapt(
    checkpoints: Mapping[str, Checkpoint],
    folder: Path,
    choices: AdaptOptions,
    *,
    run: EngineFactory,
    state: Path | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Teach an estimator what error each candidate makes on tiles of a folder's images.

    `run` makes the candidates run while they are measured. With `state`, a folder, what was
    killed goes on where it was.
    """
    task = common_task(checkpoints)
    tiling = choose_tiling(task, checkpoints, choices)
    candidates = collect_candidates(checkpoints, run, outer_size(tiling))
    settings = Settings(steps=choices.steps, seed=choices.seed, **SETTINGS)  # type: ignore[arg-type]
    measuring = ErrorMeasurement(candidates, task, tiling, choices.seed)
    notes = state / NOTES_FILE if state else None
    learnt, held_out, images = measure_tile_errors(measuring, folder, notes, progress)
    laplacian = fit_laplacian(learnt)
    module = train_estimator(learnt, laplacian, Trainer(settings, state, progress))
    return Bundle(
        {c.name: c.checkpoint for c in candidates if c.checkpoint is not None},
        tiling,
        choices.exact,
        module,
        laplacian,
        choices.use,
        {
            "learned": evaluate_estimator(LearnedEstimator(module, laplacian), held_out),
            "laplacian": evaluate_estimator(laplacian, held_out),
        },
        {
            "images": images,
            "tiles": len(learnt.tiles),
            "held_out_tiles": len(held_out.tiles),
            "training": asdict(settings),
        },
    )


def choose_tiling(task: Task, checkpoints: Mapping[str, Checkpoint], choices: AdaptOptions) -> Tiling:
    """Return how images are cut: as SLS cuts them unless something else is chosen."""
    paper = SLS_TILINGS.get(task.name, SLS_TILINGS["sr"])
    core = choices.tile or paper.core
    if not choices.exact:
        margin = paper.margin if choices.margin is None else (choices.margin,) * 2
        return Tiling(core, margin, full=True)
    found = [measure_receptive_field(c.module, task.channels) for c in checkpoints.values()]
    for name, reach in zip(checkpoints, found, strict=True):
        if not reach.exact:
            raise UsageError(f"--exact: {name} cannot: {reach.sentence()}")
    margin = (max(reach.margin for reach in found),) * 2
    return Tiling(core, margin, math.lcm(*(reach.grid for reach in found)), full=True)


def means_of(
    bundle: Bundle, run: EngineFactory, use: str | None = None, timed_by: str | None = None
) -> RouterContext:
    """Return what a bundle's tiles are judged by and restored with.

    `timed_by` names the engine that `run` makes: tiles are then priced by its milliseconds.
    """
    candidates: list[Candidate] = collect_candidates(bundle.checkpoints, run, outer_size(bundle.tiling))
    if [c.name for c in candidates][:-1] != list(bundle.checkpoints):
        raise UsageError("the candidates of this bundle are not in the order of their costs")
    task = bundle.task
    estimator: Estimator = bundle.laplacian
    macs: Macs = bundle.laplacian.macs
    if (use or bundle.use) == "learned":
        estimator = LearnedEstimator(bundle.estimator, bundle.laplacian)
        correcting = count_macs(Checkpoint(bundle.estimator, {}, {}, NAME, {}, {}, 0), task)

        def macs(size: tuple[int, int]) -> int:
            return correcting(size) + bundle.laplacian.macs(size)

    kind, table = use or bundle.use, bundle.laplacian
    tables = settings_text("laplacian", table), old_repr("Laplacian", table, "knots values")
    estimators = fingerprints(bundle.estimator)
    names = tuple(f"{kind} {n} {t}" for n, t in zip(estimators, tables, strict=True))
    times = None
    if timed_by is not None:
        by = f"{timed_by} {names[0]}"
        times = latency_model(candidates, estimator, outer_size(bundle.tiling), task.channels, by)
    return RouterContext(
        candidates, estimator, macs, bundle.tiling, bundle.exact, task.channels, names, times
    )
