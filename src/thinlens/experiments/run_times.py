"""How long do the networks of a comparison take in the engine?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from thinlens.api import load
from thinlens.bench.cases import Ours, reference
from thinlens.bench.interleaved import Entrant, compete
from thinlens.cli.bench import smooth_image
from thinlens.cli.info import DEFAULT_SIZES
from thinlens.engine.compiled import Compiled
from thinlens.engine.native import native
from thinlens.errors import UsageError
from thinlens.experiments.comparison import DENSE, Cell
from thinlens.experiments.networks import input_shape
from thinlens.experiments.values import size
from thinlens.progress import Progress
from thinlens.tasks import make_task


def cell_times(
    cells: Sequence[Cell], out: Path, threads: int, rounds: int, report: Progress
) -> Mapping[Cell, float]:
    """Return the median milliseconds of each network on an HD image, all in turns in one run.

    A network that the engine does not know is left out. Raises `UsageError` where the engine was
    not built.
    """
    if native() is None:
        raise UsageError("--rounds: the native engine was not built")
    entrants: dict[Cell, Entrant] = {}
    for cell in cells:
        checkpoint = load(cell.source(out))
        shape = input_shape(make_task(**checkpoint.task), size(DEFAULT_SIZES["sls"]))
        image = smooth_image(shape[0], shape[1:])
        try:
            run = Ours(Compiled(checkpoint.module.eval(), threads), image).run
            run()
        except UsageError:
            continue
        expected = reference(checkpoint.module, image)
        entrants[cell] = Entrant(str(cell.folder), "fp32", cell.method != DENSE, run, expected)
    rows = compete(list(entrants.values()), threads, rounds, report=report)
    return {cell: row.ms for cell, row in zip(entrants, rows, strict=True)}
