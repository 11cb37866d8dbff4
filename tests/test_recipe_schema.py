"""The JSON Schemas of recipes accept what is read, and refuse what is refused."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cli_cases import run
from thinlens.cli.recipe_schema import SCHEMAS
from thinlens.errors import UsageError
from thinlens.experiments.plan import read_plan
from thinlens.experiments.recipe import read_recipe

jsonschema = pytest.importorskip("jsonschema")

RECIPES = Path(__file__).parents[1] / "recipes"


def kind_of(content: dict[str, Any]) -> str:
    return "comparison" if "networks" in content else "training"


@cache
def validator(kind: str) -> Any:
    schema = run("schema", kind, "--json").json
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    content = tomllib.loads(path.read_text())
    assert not [error.message for error in validator(kind_of(content)).iter_errors(content)]


COMPARISON = 'networks = ["rfdn-x4"]\nmethods = ["one-shot"]\nbudgets = ["1/4"]\n'

WRONG = {
    "unknown table": ("training", "[trainings]\nsteps = 1\n"),
    "unknown key": ("training", "[training]\nstep = 1\n"),
    "kind of a value": ("training", '[training]\nsteps = "many"\n'),
    "unknown choice": ("training", '[training]\nloss = "l3"\n'),
    "a negative number": ("training", "[training]\nsteps = -1\n"),
    "two starts": ("training", '[start]\ncheckpoint = "a"\nmean_of = ["a"]\n'),
    "no networks": ("comparison", 'methods = ["one-shot"]\nbudgets = ["1/4"]\n'),
    "an empty list": ("comparison", COMPARISON + "m = []\n"),
    "kind of an element": ("comparison", COMPARISON + 'seeds = ["0"]\n'),
    "a seed in training": ("comparison", COMPARISON + "[training]\nseed = 1\n"),
    "a test that is no folder": ("comparison", COMPARISON + "[tests]\nSet5 = 5\n"),
    "a fresh network without model": ("comparison", COMPARISON + "[fresh.a]\nsteps = 1\n"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_by_the_reader_is_not_valid(name: str, tmp_path: Path) -> None:
    kind, text = WRONG[name]
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UsageError):
        (read_plan if kind == "comparison" else read_recipe)(path)
    assert not validator(kind).is_valid(tomllib.loads(text))


def test_keys_are_described_for_editors() -> None:
    training = validator("training").schema["properties"]["training"]["properties"]
    assert training["loss"]["enum"] == ["l1", "l2"]
    assert "time constant" in training["average"]["description"]
    comparison = validator("comparison").schema["properties"]
    assert all("description" in comparison[key] for key in ("networks", "budgets", "tests"))


def test_another_kind_is_one_sentence() -> None:
    ran = run("schema", "bundle")
    assert (ran.status, ran.out) == (2, "")
    assert f"wanted {' or '.join(SCHEMAS)}" in ran.err
