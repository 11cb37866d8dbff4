"""Comparison plans: networks x methods x budgets x M x seeds, read from a TOML recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.experiments.recipe import (
    CROP_KEYS,
    FINE_TUNING_RATE,
    check_keys,
    check_types,
    read_toml,
)
from thinlens.experiments.untrained import UntrainedNetwork, read_untrained
from thinlens.methods import METHODS
from thinlens.methods.option_aliases import rename_options
from thinlens.sparsity.budget import Budget
from thinlens.training.settings import Settings

DENSE_METHOD = "dense"
"""The method name of an unpruned network."""

STEPS_KEY = "steps"
"""The key of a variant that replaces the recipe's number of steps."""

LISTS = {"networks": str, "methods": str, "budgets": str, "m": int, "seeds": int}
"""The keys of a recipe that hold lists, with the type of an element."""

TABLES = ("tests", "training", "crops", "fresh", "variants", "task", "evaluation")
"""The tables of a recipe."""

OLD_TABLES = {"judging": "evaluation"}
"""Former names of tables, which recipes may still use."""


@dataclass(frozen=True)
class ComparisonPlan:
    """The content of a comparison's recipe."""

    networks: tuple[str, ...]
    """Dense checkpoints: folders, or shipped names; or names of `untrained`."""
    methods: tuple[str, ...]
    """Names of `METHODS`, with an optional preset after a colon (`sls:paper`); or names of
    `variants`."""
    budgets: tuple[str, ...]
    m: tuple[int, ...] = (32,)
    seeds: tuple[int, ...] = (0,)
    data: str | None = None
    """Images to calibrate and train on; None: the photographs inside scikit-image."""
    tests: Mapping[str, str] = field(default_factory=dict)
    """Test folders by the name of the set. Both may name environment variables: $DATA/Set5."""
    skipped_tests: tuple[str, ...] = ()
    """The sets whose folders name a variable that is not set."""
    training: Settings = field(default_factory=Settings)
    """The settings of all methods that train; `seeds` replaces `seed`."""
    crops: Mapping[str, Any] = field(default_factory=dict)
    untrained: Mapping[str, UntrainedNetwork] = field(default_factory=dict)
    """Networks that are trained first, the tables [fresh.NAME]."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Methods with options: `method`, optionally `budget` and `steps`, and fields of the method.
    An option `{run = METHOD, entry = KEY}` is an entry of the record of another method's run."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """Options of every network's task in training and evaluation, such as `sigmas`."""
    evaluation_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the task in evaluation alone, such as `crop_target`."""


@dataclass(frozen=True)
class Run:
    """One network of a comparison: dense, or pruned by one method at one budget."""

    network: str
    method: str
    preset: str | None = None
    budget: str = "1"
    m: int | None = None
    seed: int = 0
    variant: str | None = None
    """The recipe's name of a method with options."""
    options: str = ""
    """These options, as JSON."""

    @property
    def folder(self) -> Path:
        """The checkpoint's folder, relative to the comparison's."""
        network = Path(self.network.strip("/").replace("/", "_"))
        if self.method == DENSE_METHOD:
            return network / DENSE_METHOD
        budget = self.budget.replace("/", "-of-")
        words = [self.variant or self.method, None if self.variant else self.preset, budget]
        words += [f"m{self.m}" if self.m else None, f"seed{self.seed}"]
        return network / "-".join(word for word in words if word)

    @property
    def label(self) -> str:
        """The method's name in tables and figures."""
        return self.variant or (f"{self.method} ({self.preset})" if self.preset else self.method)

    @property
    def method_options(self) -> dict[str, Any]:
        """The method's options; those of `references` are placeholders."""
        options = json.loads(self.options or "{}")
        return {key: value for key, value in options.items() if key != STEPS_KEY}

    @property
    def steps(self) -> int | None:
        """The variant's number of steps; None: the recipe's."""
        steps: int | None = json.loads(self.options or "{}").get(STEPS_KEY)
        return steps

    @property
    def references(self) -> dict[str, tuple[str, str]]:
        """The method or variant, and the entry of its record, by the option that takes its value.

        The run is that of the same network, budget, M and seed.
        """
        return {
            key: (value["run"], value["entry"])
            for key, value in self.method_options.items()
            if isinstance(value, dict)
        }

    def source(self, out: Path) -> str:
        """Return the run's checkpoint in the comparison's folder `out`.

        Of a dense network that was not trained there, return the recipe's checkpoint.
        """
        folder = out / self.folder
        inside = self.method != DENSE_METHOD or (folder / "config.json").is_file()
        return str(folder) if inside else self.network


def read_plan(path: Path) -> ComparisonPlan:
    """Read a recipe; unknown keys, values of a wrong type and missing folders are refused."""
    content = read_toml(path)
    for old, new in OLD_TABLES.items():
        if old in content:
            check_keys(path, "second table", {new: None} if new in content else {}, [])
            content[new] = content.pop(old)
    check_keys(path, "key", content, {*LISTS, *TABLES, "data"})
    lists: dict[str, Any] = {}
    for key, kind in LISTS.items():
        values = content.get(key, [32] if key == "m" else [0] if key == "seeds" else [])
        if not isinstance(values, list) or not values or any(type(x) is not kind for x in values):
            raise UsageError(f"{path}: {key} = {values!r}: wanted a list of {kind.__name__}")
        lists[key] = tuple(values)
    tables = _tables(path, content)
    training = Settings(**{"steps": 0, "learning_rate": FINE_TUNING_RATE, **tables["training"]})
    tests = {k: v for k, v in tables["tests"].items() if "$" not in os.path.expandvars(v)}
    untrained = {name: read_untrained(path, name, x) for name, x in tables["fresh"].items()}
    plan = ComparisonPlan(
        **lists,
        data=_expanded(path, content["data"]) if "data" in content else None,
        tests={name: _expanded(path, folder) for name, folder in tests.items()},
        skipped_tests=tuple(name for name in tables["tests"] if name not in tests),
        training=training,
        crops=tables["crops"],
        untrained=untrained,
        variants=tables["variants"],
        task=tables["task"],
        evaluation_options=tables["evaluation"],
    )
    all_runs(plan)  # refuses unknown methods, presets and budgets before hours of work
    return plan


def _tables(path: Path, content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return all tables of a recipe with keys and values checked; absent ones are empty."""
    tables = {name: content.get(name, {}) for name in TABLES}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} must be a table, [{name}]")
    types: dict[str, Mapping[str, type]] = {
        "training": {f.name: type(f.default) for f in fields(Settings) if f.name != "seed"},
        "crops": CROP_KEYS,
        "tests": dict.fromkeys(tables["tests"], str),
    }
    for name, key_types in types.items():
        check_keys(path, f"key of [{name}]", tables[name], key_types)
        check_types(path, tables[name], key_types)
    check_types(path, {"data": content.get("data", "")}, {"data": str})
    return tables


def _expanded(path: Path, folder: str) -> str:
    expanded = os.path.expandvars(folder)
    if not Path(expanded).is_dir():
        raise UsageError(f"{path}: {expanded} is missing: wanted a folder of images or of pairs")
    return expanded


def all_runs(plan: ComparisonPlan) -> list[Run]:
    """List the runs in the order of execution, of each network the dense one first."""
    runs: dict[Run, None] = {}
    for network in plan.networks:
        runs[Run(network, DENSE_METHOD)] = None
        for budget, word, m, seed in product(plan.budgets, plan.methods, plan.m, plan.seeds):
            runs[_pruned_run(plan, network, word, Run(network, "", None, budget, m, seed))] = None
    return list(runs)


def _pruned_run(plan: ComparisonPlan, network: str, word: str, default: Run) -> Run:
    """Return the run of the method or variant called `word`; `UsageError` if it is unknown."""
    options = dict(plan.variants.get(word, {}))
    name, _, preset = str(options.pop("method", word)).partition(":")
    budget = str(options.pop("budget", default.budget))
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}: wanted {', '.join(METHODS)}")
    method, options = METHODS[name], rename_options(options)
    m = options.pop("m", default.m) if method.GROUPED else None
    _check_references(plan, word, options)
    checked = {k: v for k, v in options.items() if k != STEPS_KEY and not isinstance(v, dict)}
    method.configure(
        preset or None, budget=Budget.parse(budget), example=(1, 1, 1, 1), m=m, options=checked
    )
    variant = (word, json.dumps(options, sort_keys=True)) if word in plan.variants else ()
    return Run(network, name, preset or None, budget, m, default.seed, *variant)


def referenced_run(plan: ComparisonPlan, run: Run, word: str) -> Run:
    """Return the run of the method or variant `word` that is otherwise like `run`."""
    default = Run(run.network, "", None, run.budget, run.m, run.seed)
    return _pruned_run(plan, run.network, word, default)


def _check_references(plan: ComparisonPlan, word: str, options: Mapping[str, Any]) -> None:
    """Raise `UsageError` unless steps are a number, and referenced methods run earlier."""
    steps = options.get(STEPS_KEY, 1)
    if type(steps) is not int or steps < 1:
        raise UsageError(f"steps = {steps!r} of [variants.{word}]: wanted 1 or more")
    earlier = plan.methods[: plan.methods.index(word)] if word in plan.methods else ()
    for key, value in options.items():
        if not isinstance(value, dict):
            continue
        if value.keys() != {"run", "entry"} or value["run"] not in earlier:
            raise UsageError(
                f"{key} = {value!r} of [variants.{word}]: wanted a number, or run, an earlier one "
                "of the methods, and entry, a key of its record"
            )
