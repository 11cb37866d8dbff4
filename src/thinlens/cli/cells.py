"""What is one cell of a comparison, and how is it made once and never again?"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from thinlens.api import described, load, prune, save
from thinlens.checkpoints.format import Checkpoint
from thinlens.cli.fresh import Fresh, read_fresh
from thinlens.cli.info import DEFAULT_SIZES
from thinlens.cli.judging import flops, judged
from thinlens.cli.networks import input_shape
from thinlens.cli.photographs import calibration
from thinlens.cli.progress import Report
from thinlens.cli.prune import LEARNING_RATE
from thinlens.cli.recipe import CROP_KEYS, check_keys, check_types, read_toml
from thinlens.cli.values import size
from thinlens.errors import UsageError
from thinlens.files import write_json
from thinlens.methods import METHODS
from thinlens.methods.dynamic import Dynamic
from thinlens.report.price import Price, price
from thinlens.sparsity.budget import Budget
from thinlens.tasks import make_task
from thinlens.tasks.crops import Crops
from thinlens.tasks.folders import training_crops
from thinlens.tasks.task import Task
from thinlens.training.loop import Trainer
from thinlens.training.settings import Settings

DENSE = "dense"
"""The method of the row that nothing was done to."""

CELL_FILE = "cell.json"

LISTS = {"networks": str, "methods": str, "budgets": str, "m": int, "seeds": int}


@dataclass(frozen=True)
class Comparison:
    """What a comparison's recipe says."""

    networks: tuple[str, ...]
    """Dense checkpoints: folders, or shipped names; or names of `fresh`."""
    methods: tuple[str, ...]
    """Names of `METHODS`, with a preset after a colon if one is wanted (`sls:paper`); or names of
    `variants`."""
    budgets: tuple[str, ...]
    m: tuple[int, ...] = (32,)
    seeds: tuple[int, ...] = (0,)
    data: str | None = None
    """Images to calibrate and train on; None: the photographs inside scikit-image."""
    tests: Mapping[str, str] = field(default_factory=dict)
    """Test folders by the name of the set. Both may name environment variables: $DATA/Set5."""
    left_out: tuple[str, ...] = ()
    """The sets whose folders name a variable that is not set."""
    training: Settings = field(default_factory=Settings)
    """The same for all methods that train; `seed` is set by `seeds`."""
    crops: Mapping[str, Any] = field(default_factory=dict)
    fresh: Mapping[str, Fresh] = field(default_factory=dict)
    """Networks that are trained first."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Methods with settings of their own: `method`, `preset` or `budget` if wished, and the
    method's fields."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """Options of every network's task in training and tests, such as `sigmas`, at each of which
    tests are judged."""
    judging: Mapping[str, Any] = field(default_factory=dict)
    """Options of the task in tests alone, such as `crop_target`."""


@dataclass(frozen=True)
class Cell:
    """One pruned network of a comparison."""

    network: str
    method: str
    preset: str | None = None
    budget: str = "1"
    m: int | None = None
    seed: int = 0
    variant: str | None = None
    """What the recipe calls a method with settings of its own."""
    options: str = ""
    """These settings, as JSON."""

    @property
    def folder(self) -> Path:
        """Where it lives below the comparison's folder."""
        network = Path(self.network.strip("/").replace("/", "_"))
        if self.method == DENSE:
            return network / DENSE
        budget = self.budget.replace("/", "-of-")
        words = [self.variant or self.method, None if self.variant else self.preset, budget]
        words += [f"m{self.m}" if self.m else None, f"seed{self.seed}"]
        return network / "-".join(word for word in words if word)


def read_comparison(path: Path) -> Comparison:
    """Read a recipe; unknown keys, values of a wrong kind and missing folders are refused."""
    content = read_toml(path)
    check_keys(path, "key", content, {f.name for f in fields(Comparison)})
    given: dict[str, Any] = {}
    for key, kind in LISTS.items():
        values = content.get(key, [32] if key == "m" else [0] if key == "seeds" else [])
        if not isinstance(values, list) or not values or any(type(x) is not kind for x in values):
            raise UsageError(f"{path}: {key} = {values!r}: wanted a list of {kind.__name__}")
        given[key] = tuple(values)
    names = ("tests", "training", "crops", "fresh", "variants", "task", "judging")
    tables = {name: content.get(name, {}) for name in names}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} must be a table, [{name}]")
    types = {f.name: type(f.default) for f in fields(Settings) if f.name != "seed"}
    known: dict[str, dict[str, type]] = {
        "training": types,
        "crops": dict.fromkeys(CROP_KEYS, int),
        "tests": dict.fromkeys(tables["tests"], str),
    }
    for name, types_of in known.items():
        check_keys(path, f"key of [{name}]", tables[name], types_of)
        check_types(path, tables[name], types_of)
    check_types(path, {"data": content.get("data", "")}, {"data": str})
    training = Settings(**{"steps": 0, "learning_rate": LEARNING_RATE, **tables["training"]})
    reachable = {k: v for k, v in tables["tests"].items() if "$" not in os.path.expandvars(v)}
    found = Comparison(
        **given,
        data=_expanded(path, content["data"]) if "data" in content else None,
        tests={name: _expanded(path, folder) for name, folder in reachable.items()},
        left_out=tuple(name for name in tables["tests"] if name not in reachable),
        training=training,
        crops=tables["crops"],
        fresh={name: read_fresh(path, name, table) for name, table in tables["fresh"].items()},
        variants=tables["variants"],
        task=tables["task"],
        judging=tables["judging"],
    )
    cells(found)  # refuses unknown methods, presets and budgets before hours of work
    return found


def _expanded(path: Path, folder: str) -> str:
    found = os.path.expandvars(folder)
    if not Path(found).is_dir():
        raise UsageError(f"{path}: {found} is missing: wanted a folder of images or of pairs")
    return found


def cells(plan: Comparison) -> list[Cell]:
    """List the cells in the order in which they are made, the dense ones first in a network."""
    found: dict[Cell, None] = {}
    for network in plan.networks:
        found[Cell(network, DENSE)] = None
        for budget, word, m, seed in product(plan.budgets, plan.methods, plan.m, plan.seeds):
            variant = dict(plan.variants.get(word, {}))
            method, _, preset = str(variant.pop("method", word)).partition(":")
            budget = str(variant.pop("budget", budget))  # noqa: PLW2901 - a variant's own
            if method not in METHODS:
                raise UsageError(f"unknown method {method!r}: wanted {', '.join(METHODS)}")
            settings = {f.name for f in fields(METHODS[method])} - {"budget", "example"}
            if unknown := sorted(variant.keys() - settings):
                raise UsageError(
                    f"{method} has no option {unknown[0]!r}: wanted {sorted(settings)}"
                )
            given = {"budget": Budget.of(budget), "example": (1, 1, 1, 1), **variant}
            METHODS[method].preset(preset or None, **given)
            own = (word, json.dumps(variant, sort_keys=True)) if word in plan.variants else ()
            has_groups = "m" in settings and not issubclass(METHODS[method], Dynamic)
            grouped = m if has_groups else None
            found[Cell(network, method, preset or None, budget, grouped, seed, *own)] = None
    return list(found)


class CellMaker:
    """Makes the cells of a comparison in a folder; what is there already is left as it is."""

    def __init__(self, plan: Comparison, out: Path, report: Report) -> None:
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
        return load(folder)

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
