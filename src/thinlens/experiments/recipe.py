"""Training recipes in TOML, in which a misspelt key is an error and not a default."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from thinlens.errors import UsageError
from thinlens.models import model_entry
from thinlens.training.settings import Settings

CROP_KEYS: Mapping[str, type] = {"patch": int, "batch_size": int, "candidates": int, "hard": float}
START_KEYS = {"checkpoint": str, "mean_of": list}

FINE_TUNING_RATE = 1e-3
"""Default learning rate after pruning: a third of the one that rfdn-x4 was trained with."""


@dataclass(frozen=True)
class TrainingRecipe:
    """The content of a recipe file; absent tables have defaults."""

    training: Settings = field(default_factory=Settings)
    crops: Mapping[str, float] = field(default_factory=dict)
    """Settings of `tasks.crops.Crops`."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """Options of the task, such as `sigma`, which the task checks."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the network's config, such as `width`."""
    start: Mapping[str, Any] = field(default_factory=dict)
    """`checkpoint`, a folder or shipped name of initial weights, or `mean_of`, a list of such whose
    mean weights are the initial ones."""

    @property
    def starts(self) -> list[str]:
        """The checkpoints whose mean weights training starts from; empty: random weights."""
        return [str(x) for x in self.start.get("mean_of", [self.start.get("checkpoint")]) if x]


def read_recipe(path: Path | None) -> TrainingRecipe:
    """Read a recipe, by default that of defaults. Unknown keys are a `UsageError`."""
    if path is None:
        return TrainingRecipe()
    content = read_toml(path)
    check_keys(path, "table", content, {f.name for f in fields(TrainingRecipe)})
    for name, table in content.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} must be a table, [{name}]")
    types = {f.name: type(f.default) for f in fields(Settings)}
    training = content.get("training", {})
    check_keys(path, "key of [training]", training, types)
    crops = content.get("crops", {})
    check_keys(path, "key of [crops]", crops, CROP_KEYS)
    start = content.get("start", {})
    check_keys(path, "key of [start]", start, START_KEYS)
    check_types(path, start, START_KEYS)
    if len(start) > 1:
        raise UsageError(f"{path}: [start] has checkpoint and mean_of: wanted one of them")
    check_types(path, training, types)
    check_types(path, crops, CROP_KEYS)
    return TrainingRecipe(
        Settings(**training), crops, content.get("task", {}), content.get("network", {}), start
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; `UsageError` if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def check_keys(path: Path, what: str, table: Mapping[str, Any], names: Collection[str]) -> None:
    """Refuse the first key of `table` that is not in `names`."""
    for key in table:
        if key not in names:
            raise UsageError(f"{path}: unknown {what} {key!r}: wanted {', '.join(sorted(names))}")


def check_types(path: Path, table: Mapping[str, Any], types: Mapping[str, type]) -> None:
    """Refuse the first value that is not of its key's type."""
    for key, value in table.items():
        accepted = (int, float) if types[key] is float else (types[key],)
        if type(value) not in accepted:
            raise UsageError(f"{path}: {key} = {value!r}: wanted {types[key].__name__}")


def check_options(path: Path, name: str, options: Mapping[str, Any]) -> None:
    """Refuse unknown or invalid config fields of the network called `name`."""
    entry = model_entry(name)
    types = {f.name: type(getattr(entry.config, f.name)) for f in fields(entry.config)}
    check_types(path, {key: value for key, value in options.items() if key in types}, types)
    entry.make_config(**options)
