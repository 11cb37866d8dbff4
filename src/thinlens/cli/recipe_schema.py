"""JSON Schemas of recipes, generated from the dataclasses that read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any

from thinlens.cli.method_flags import field_docs
from thinlens.experiments.plan import LISTS, OLD_TABLES, TABLES, ComparisonPlan
from thinlens.experiments.recipe import CROP_KEYS, START_KEYS, TrainingRecipe
from thinlens.experiments.untrained import UntrainedNetwork
from thinlens.methods import METHODS
from thinlens.models import MODELS
from thinlens.tasks.crops import Crops
from thinlens.training.settings import CHOICES, Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"

JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", list: "array"}

JsonSchema = dict[str, Any]

NON_NEGATIVE = ("steps", "seed", "warmup")
"""Settings that may be 0; `Settings` checks the other limits."""

DOCS = {
    "networks": "Dense checkpoints: folders or shipped names; or names of tables [fresh.NAME].",
    "methods": "Methods, with an optional preset after a colon; or names of tables "
    "[variants.NAME].",
    "budgets": "The fractions that are kept, such as 1/4.",
    "m": "Sizes of groups of input channels.",
    "seeds": "Seeds of the training and calibration batches.",
    "tests": "Test folders by the name of the set; $NAME is an environment variable.",
    "training": "Settings of all methods that train.",
    "crops": "Crops of the training images.",
    "fresh": "Networks that are trained first.",
    "evaluation": "Options of the task in evaluation alone.",
    "checkpoint": "A checkpoint's folder or a shipped name.",
    "mean_of": "Checkpoints of one network, whose weights are averaged.",
}
"""Descriptions of keys whose fields have none of their own."""


def training_schema() -> JsonSchema:
    """Return the schema of recipes of `train` and `prune`.

    >>> sorted(training_schema()["properties"])
    ['crops', 'network', 'start', 'task', 'training']
    """
    docs = field_docs(TrainingRecipe)
    tables: dict[str, JsonSchema] = {
        "training": _settings(),
        "crops": _crops(),
        "task": {"type": "object"},
        "network": {"type": "object"},
        "start": {
            **_table(_described(_properties(START_KEYS), DOCS)),
            "maxProperties": 1,
        },
    }
    tables["start"]["properties"]["mean_of"]["items"] = {"type": "string"}
    return _document("thinlens: recipe of training", _described(tables, docs))


def comparison_schema() -> JsonSchema:
    """Return the schema of recipes of `compare`.

    >>> comparison_schema()["required"]
    ['networks', 'methods', 'budgets']
    """
    docs = field_docs(ComparisonPlan)
    docs = {**docs, "evaluation": docs["evaluation_options"]}
    keys: dict[str, JsonSchema] = {
        name: {"type": "array", "minItems": 1, "items": {"type": JSON_TYPES[kind]}}
        for name, kind in LISTS.items()
    }
    keys["data"] = {"type": "string"}
    open_tables = {name: {"type": "object"} for name in (*TABLES, *OLD_TABLES)}
    keys |= open_tables
    keys["training"] = _settings(without=("seed",))
    keys["crops"] = _crops()
    keys["tests"] = {"type": "object", "additionalProperties": {"type": "string"}}
    keys["fresh"] = {"type": "object", "additionalProperties": _untrained()}
    keys["variants"] = {"type": "object", "additionalProperties": _variant()}
    schema = _document("thinlens: recipe of a comparison", _described(keys, {**docs, **DOCS}))
    return {**schema, "required": ["networks", "methods", "budgets"]}


SCHEMAS: dict[str, Callable[[], JsonSchema]] = {
    "training": training_schema,
    "comparison": comparison_schema,
}
"""By the kind of recipe."""


def _document(title: str, properties: JsonSchema) -> JsonSchema:
    return {"$schema": DIALECT, "title": title, **_table(properties)}


def _table(properties: JsonSchema) -> JsonSchema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _properties(types: Mapping[str, type]) -> JsonSchema:
    return {name: {"type": JSON_TYPES[kind]} for name, kind in types.items()}


def _described(properties: Mapping[str, JsonSchema], docs: Mapping[str, str]) -> JsonSchema:
    return {
        name: {**schema, "description": docs[name]} if name in docs else schema
        for name, schema in properties.items()
    }


def _settings(without: Collection[str] = ()) -> JsonSchema:
    """Return the schema of [training]: the fields of `Settings` with their defaults."""
    properties: JsonSchema = {}
    for field in fields(Settings):
        if field.name in without:
            continue
        entry: JsonSchema = {"type": JSON_TYPES[type(field.default)], "default": field.default}
        if field.name in CHOICES:
            entry["enum"] = list(CHOICES[field.name])
        elif entry["type"] == "integer":
            entry["minimum"] = 0 if field.name in NON_NEGATIVE else 1
        properties[field.name] = entry
    return _table(_described(properties, field_docs(Settings)))


def _crops() -> JsonSchema:
    entries: dict[str, JsonSchema] = {}
    defaults = {field.name: field.default for field in fields(Crops)}
    for name, kind in CROP_KEYS.items():
        entries[name] = {"type": JSON_TYPES[kind], "minimum": 1}
        if kind is float:
            entries[name] |= {"minimum": 0, "maximum": 1}
        if defaults[name] is not MISSING:
            entries[name]["default"] = defaults[name]
    return _table(_described(entries, field_docs(Crops)))


def _untrained() -> JsonSchema:
    entries: dict[str, JsonSchema] = {
        "model": {"type": "string", "enum": list(MODELS)},
        "steps": {"type": "integer", "minimum": 0},
    }
    described = _described(entries, field_docs(UntrainedNetwork))
    return {"type": "object", "properties": described, "required": ["model"]}


def _variant() -> JsonSchema:
    entries: dict[str, JsonSchema] = {
        "method": {"type": "string", "description": f"{', '.join(METHODS)}; :PRESET may follow."},
        "budget": {"type": "string"},
        "steps": {"type": "integer", "minimum": 1},
    }
    return {"type": "object", "properties": entries}
