"""Recipes of today and of commit 91f6d5f give the plans that they gave at that commit."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from thinlens.experiments.plan import DENSE_METHOD, all_runs, read_plan
from thinlens.experiments.recipe import read_recipe
from thinlens.experiments.runs import RunExecutor, renamed_identity
from thinlens.methods import METHODS
from thinlens.methods.option_aliases import rename_options
from thinlens.progress import no_progress
from thinlens.sparsity.budget import Budget

RECIPES = Path(__file__).parents[1] / "recipes"
GOLDEN = Path(__file__).parent / "golden" / "recipes-91f6d5f"
"""The recipes of that commit whose keys are renamed since, and its plans of all recipes."""


@cache
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / "plans.json").read_text())
    return content


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.toml")}


COMPARISONS = [(RECIPES, name) for name in sorted(golden()["comparisons"])]
COMPARISONS += [(GOLDEN, name) for name in sorted(names(GOLDEN))]


def test_every_committed_recipe_has_a_golden_plan() -> None:
    assert names(RECIPES) == {*golden()["comparisons"], *golden()["training"]}


@pytest.mark.parametrize("name", golden()["training"])
def test_a_training_recipe_is_read_as_before(name: str) -> None:
    recipe = json.loads(json.dumps(asdict(read_recipe(RECIPES / name))))
    assert recipe == golden()["training"][name]


@pytest.mark.parametrize(("folder", "name"), COMPARISONS)
def test_a_comparison_is_planned_as_before(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Same folders, stored identities and method settings, under the present option names."""
    text = (folder / name).read_text()
    for variable in re.findall(r'"\$(\w+)', text):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for path in re.findall(r'"(\$[^"]+)"', text):
        Path(os.path.expandvars(path)).mkdir(parents=True, exist_ok=True)
    plan = read_plan(folder / name)
    executor = RunExecutor(plan, Path("out"), no_progress)
    expected = golden()["comparisons"][name]
    for run, entry in zip(all_runs(plan), expected, strict=True):
        assert (str(run.folder), run.label) == (entry["folder"], entry["label"])
        stored = {**golden()["shared"][entry["shared"]], "cell": entry["cell"]}
        if "training" in stored:
            stored["training"] = {**stored["training"], "seed": run.seed}
        identity = json.dumps(executor.identity(run)).replace(str(tmp_path), "$")
        assert json.loads(identity) == renamed_identity(stored)
        if run.method != DENSE_METHOD:
            assert settings(run.method, run) == renamed_settings(entry["settings"])


def settings(name: str, run: Any) -> dict[str, Any]:
    method = METHODS[name].configure(
        run.preset,
        budget=Budget.parse(run.budget),
        example=(1, 1, 1, 1),
        m=run.m,
        options=run.method_options,
    )
    values = {f.name: getattr(method, f.name) for f in fields(method)}
    values = {key: x for key, x in values.items() if key not in ("budget", "example")}
    content: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return content


def renamed_settings(index: int) -> dict[str, Any]:
    return rename_options(golden()["settings"][index])
