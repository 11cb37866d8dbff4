"""Recipes give the plans that they gave at commit 91f6d5f, or are read if they are younger."""

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


CHANGED = {
    *("sls-dncnn.toml", "sls-edsr-short.toml", "sls-unet-short.toml"),
    *(f"sls-rfdn-x4-{budget}th.toml" for budget in (4, 8, 16)),
    "sr-ste-rfdn-x4-scratch.toml",
    *(f"fmp/{name}.toml" for name in ("edsr-x4", "esrb-x2", "esrb-x3", "esrb-x4")),
    "classpruning/deblur.toml",
}
"""Recipes whose runs are others since (SR-STE, FMP and labels as their papers have them)."""

COMPARISONS = [(RECIPES, name) for name in sorted(golden()["comparisons"]) if name not in CHANGED]
COMPARISONS += [(GOLDEN, name) for name in sorted(names(GOLDEN))]


SINCE: dict[tuple[str, str | None], dict[str, Any]] = {
    ("sls", "paper"): {"regroup_until": 1.0, "max_penalty_growth": None},
    ("sls", "code"): {"max_penalty_growth": None},
    **{
        (name, "paper"): {"least_share": 0.0, "stabilized": False}
        for name, kind in METHODS.items()
        if kind.ROUTED
    },
}
"""Settings that a preset has since, by method and preset; tests/test_paper_presets.py has all."""

YOUNGER = CHANGED | names(RECIPES) - {*golden()["comparisons"], *golden()["training"]}
"""Recipes that are younger than the golden plans."""


def test_no_recipe_with_a_golden_plan_is_gone() -> None:
    assert {*golden()["comparisons"], *golden()["training"]} <= names(RECIPES)


@pytest.mark.parametrize("name", sorted(YOUNGER))
def test_a_younger_recipe_is_planned(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provide_folders((RECIPES / name).read_text(), monkeypatch, tmp_path)
    if "networks" not in (RECIPES / name).read_text():
        assert read_recipe(RECIPES / name).training  # of one network
        return
    plan = read_plan(RECIPES / name)
    runs = all_runs(plan)
    assert len({run.folder for run in runs}) == len(runs)
    assert set(plan.variants) <= set(plan.methods)
    used = {*plan.networks} | {run.network for run in runs}
    assert set(plan.untrained) <= used


@pytest.mark.parametrize("name", golden()["training"])
def test_a_training_recipe_is_read_as_before(name: str) -> None:
    recipe = json.loads(json.dumps(asdict(read_recipe(RECIPES / name))))
    assert recipe == golden()["training"][name]


@pytest.mark.parametrize(("folder", "name"), COMPARISONS)
def test_a_comparison_is_planned_as_before(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Same folders, stored identities and method settings, under the present option names."""
    provide_folders((folder / name).read_text(), monkeypatch, tmp_path)
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
            expected_settings = renamed_settings(entry["settings"])
            expected_settings |= SINCE.get((run.method, run.preset), {})
            actual = settings(run.method, run)
            assert {key: actual.pop(key) for key in expected_settings} == expected_settings
            younger = {f.name: f.default for f in fields(METHODS[run.method]) if f.name in actual}
            assert actual == younger


def provide_folders(text: str, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Make the folders of a recipe below `root`, and set the variables that name them."""
    for variable in re.findall(r'"\$(\w+)', text):
        monkeypatch.setenv(variable, str(root / variable))
    for path in re.findall(r'"(\$[^"]+)"', text):
        Path(os.path.expandvars(path)).mkdir(parents=True, exist_ok=True)


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
