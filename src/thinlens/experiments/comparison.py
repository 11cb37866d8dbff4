"""What does a comparison's recipe say, and which cells does it ask for?"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from thinlens.cli.prune import LEARNING_RATE
from thinlens.errors import UsageError
from thinlens.experiments.recipe import CROP_KEYS, check_keys, check_types, read_toml
from thinlens.experiments.untrained import Fresh, read_fresh
from thinlens.methods import METHODS
from thinlens.methods.classpruning.routed_training import Dynamic
from thinlens.sparsity.budget import Budget
from thinlens.training.settings import Settings

DENSE = "dense"
"""The method of the row that nothing was done to."""

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

    @property
    def label(self) -> str:
        """What its method is called."""
        return self.variant or (f"{self.method} ({self.preset})" if self.preset else self.method)

    def source(self, out: Path) -> str:
        """Return where its network is, given the comparison's folder: below that, or for a dense
        one that was not trained there the checkpoint that the recipe names."""
        folder = out / self.folder
        made = self.method != DENSE or (folder / "config.json").is_file()
        return str(folder) if made else self.network


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
