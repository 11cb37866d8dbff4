"""How is a cell of a comparison made, once and never again?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from thinlens.api import described, load, prune, save
from thinlens.checkpoints.format import Checkpoint
from thinlens.cli.info import DEFAULT_SIZES
from thinlens.errors import UsageError
from thinlens.experiments.comparison import DENSE, Cell, Comparison
from thinlens.experiments.evaluation import flops, judged
from thinlens.experiments.networks import input_shape
from thinlens.experiments.photographs import calibration
from thinlens.experiments.search_pictures import draw_search
from thinlens.experiments.values import size
from thinlens.files import write_json
from thinlens.progress import Progress
from thinlens.sparsity.summary import Price, price
from thinlens.tasks import make_task
from thinlens.tasks.crops import Crops
from thinlens.tasks.folders import training_crops
from thinlens.tasks.task import Task
from thinlens.training.loop import Trainer

CELL_FILE = "cell.json"


class CellMaker:
    """Makes the cells of a comparison in a folder; what is there already is left as it is."""

    def __init__(self, plan: Comparison, out: Path, report: Progress) -> None:
        self._plan, self._out, self._report = plan, out, report
        self._crops: dict[str, Crops] = {}

    def row(self, cell: Cell) -> dict[str, Any]:
        """Make a cell, or read it, and return its row. One whose budget is out of reach says so.

        Raises `UsageError` where the folder holds the same cell made by another recipe.
        """
        folder = self._out / cell.folder
        identity = self._identity(cell)
        found = _read(folder / CELL_FILE)
        if found and found["made_by"] != identity:
            raise UsageError(
                f"{folder} was made by another recipe: choose another --out, or delete it"
            )
        dense = self._dense(cell.network)
        if not found:
            try:
                thin = dense if cell.method == DENSE else self._pruned(cell, dense, folder)
            except UsageError as problem:
                return {**asdict(cell), "error": str(problem)}
            found = {"made_by": identity, **_described(cell, dense, thin), "scores": {}}
            write_json(folder / CELL_FILE, found)
        tests = {} if self._untrained(cell) else self._plan.tests
        missing = tests.keys() - found["scores"].keys()
        if missing:
            network = dense if cell.method == DENSE else load(folder)
            task = make_task(**{**network.task, **self._plan.task, **self._plan.judging})
            for name in sorted(missing):
                found["scores"][name] = judged(network, task, self._plan.tests[name])
                write_json(folder / CELL_FILE, found)
        scores = {name: found["scores"][name] for name in tests}
        row = {key: value for key, value in found.items() if key != "made_by"}
        return {**asdict(cell), **row, "scores": scores, "error": None}

    def _identity(self, cell: Cell) -> dict[str, Any]:
        settings = asdict(replace(self._plan.training, seed=cell.seed))
        data = self._plan.data or "scikit-image"
        own: dict[str, Any] = {"training": settings, "crops": dict(self._plan.crops), "data": data}
        fresh = self._plan.fresh.get(cell.network)
        if fresh:
            own["fresh"] = asdict(fresh)
        # what older recipes did not have is left out where it says nothing
        named = {k: v for k, v in asdict(cell).items() if v or k not in ("variant", "options")}
        tables = {"task": dict(self._plan.task), "judging": dict(self._plan.judging)}
        told = {"cell": named, **{key: table for key, table in tables.items() if table}}
        return told if cell.method == DENSE and not fresh else {**told, **own}

    def _untrained(self, cell: Cell) -> bool:
        """Tell whether a cell's network was never trained, so that there is nothing to judge."""
        fresh = self._plan.fresh.get(cell.network)
        return cell.method == DENSE and fresh is not None and fresh.steps == 0

    def _dense(self, name: str) -> Checkpoint:
        """Load a dense network; one that the recipe describes is trained before, once."""
        fresh = self._plan.fresh.get(name)
        if fresh is None:
            return load(name)
        folder, seed = self._out / Cell(name, DENSE).folder, self._plan.seeds[0]
        if not (folder / "config.json").is_file():
            module, task = fresh.built(seed)
            task = self._task(described(task))
            settings = fresh.lasting(replace(self._plan.training, seed=seed))
            trainer = Trainer(settings, folder, self._report)
            fresh.train(module, task, trainer, self._data(name, task))
        return load(folder)

    def _pruned(self, cell: Cell, dense: Checkpoint, folder: Path) -> Checkpoint:
        task = self._task(dense.task)
        settings = replace(self._plan.training, seed=cell.seed)
        options: dict[str, Any] = {} if cell.m is None else {"m": cell.m}
        options |= json.loads(cell.options or "{}")
        thin = prune(
            dense.module,
            budget=cell.budget,
            method=cell.method,
            preset=cell.preset,
            data=self._data(cell.network, task),
            size=_shape(task)[1:],
            trainer=Trainer(settings, folder, self._report),
            **options,
        )
        save(folder, thin, model=dense.model, task=task)
        made, title = load(folder), f"{cell.method} {cell.budget}, {settings.steps} steps"
        priced = price(made.module, made.patterns, _shape(task))
        draw_search(folder, cell.method, priced, thin.record, title)
        return made

    def _task(self, own: Mapping[str, Any]) -> Task:
        return make_task(**{**own, **self._plan.task})

    def _data(self, network: str, task: Task) -> Crops:
        """Read the images once for every network."""
        if network not in self._crops:
            if self._plan.data is None:
                crops = replace(calibration(task), **self._plan.crops)
            else:
                crops = training_crops(task, Path(self._plan.data), **self._plan.crops)
            self._crops[network] = crops
        return self._crops[network]


def _shape(task: Task) -> tuple[int, int, int]:
    return input_shape(task, size(DEFAULT_SIZES["sls"]))


def _described(cell: Cell, dense: Checkpoint, thin: Checkpoint) -> dict[str, Any]:
    """Return what a row says beside its scores."""
    shape = _shape(make_task(**dense.task))
    priced = price(thin.module, thin.patterns, shape)
    return {
        "budget_base": thin.provenance.get("budget_base"),
        "achieved": thin.provenance.get("achieved") if cell.method != DENSE else 1.0,
        "macs": priced.total.macs,
        "paper_gmacs": paper_gmacs(dense.model, priced),
        "params": priced.total.params,
        "flops": flops(thin),
        "bytes": thin.bytes,
        "seconds": thin.provenance.get("seconds") if cell.method != DENSE else 0.0,
        "parts": thin.provenance.get("parts"),
    }


BIASES_SCALED = {"carn": 32, "rfdn": 32}
"""The networks, and M, for which SLS's tables scale the additions of biases as well."""


def paper_gmacs(model: str, priced: Price) -> float:
    """Count as SLS's tables do: a layer at N:M costs N / M of its multiply-adds, in some networks
    of its bias additions too."""
    macs = float(priced.total.macs)
    for layer in priced.layers:
        n = priced.n.get(layer.name)
        if n is not None and layer.m is not None and layer.m == BIASES_SCALED.get(model):
            macs -= layer.bias_adds * (1 - n / layer.m)
        # single weights that are 0 cost as much as others there
        dead = layer.weights - priced.kept.get(layer.name, layer.weights)
        macs += dead * (layer.macs // layer.weights)
    return macs / 1e9


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        if isinstance(found["made_by"], dict) and isinstance(found["scores"], dict):
            return dict(found)
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError(f"{path} is damaged: delete it, and its cell is made again")
